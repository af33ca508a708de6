"""Protection against floods: what each connection and address costs is counted, and the costly ones are closed."""
