"""Jobs that come with the library (NAME.toml), the tables they read (`bundled`), and makers of files (`pixels`)."""
