"""Prediction over HTTP on Ray Serve. `app.build` makes the application, `client.Client` asks it."""
