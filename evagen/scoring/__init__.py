"""What `evagen benchmark` and `evagen fvd` are made of: videos of a protocol, networks, features, records."""
