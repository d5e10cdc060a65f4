"""Manifests of KubeRay: what raypose's own look like, and whether a user's keep to the same rules."""
