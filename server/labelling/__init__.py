"""What helps to label images: samples that are kept in a folder, and feedback about answers. All is off by default."""
