"""What `log` takes besides plain values: tables, images, confusion matrices."""
