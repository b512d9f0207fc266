"""What stands between the face and a driver."""
