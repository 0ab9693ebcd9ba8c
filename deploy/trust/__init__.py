"""Who is trusted and what is secret: the certificate authority, its certificates, and secrets at rest.

Runs on the controller only and speaks to no host: certificate requests come in as text, certificates go out
as text.
"""
