"""A faster way through pyfuse3. All code that uses what pyfuse3 does not document is here."""
