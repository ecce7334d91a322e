"""Programs: made, fed, waited for, ended with all that they started."""
