"""What an observer can do with what it saw. No attack is built yet; README says what is."""
