"""Every check of this project; helpers that several folders use lie here."""
