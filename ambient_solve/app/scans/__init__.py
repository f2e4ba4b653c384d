"""The tab that reconstructs scans."""
