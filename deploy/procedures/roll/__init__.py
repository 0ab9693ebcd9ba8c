"""`fleet roll`: pay what is owed a restart, one member at a time, behind gates, so that nobody notices."""
