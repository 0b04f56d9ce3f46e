"""The hospital's sign-in, for demonstrations: an OpenID provider where anybody may be anybody.

Here: what an identity provider says over HTTP, written from the standards, with demonstration people and no password.
Not here: anything of the platform, which treats it as any provider and refuses it outside of demo mode; a real
hospital has its own provider.
"""
