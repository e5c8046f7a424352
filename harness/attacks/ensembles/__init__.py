"""Ensembles: rules that use the members of a substitute one by one; a substitute without members is an ensemble of one."""
