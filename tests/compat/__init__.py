"""The releases of LLaMA-Factory this package is run with: one TOML each, and the driver.

``python -m tests.compat 0.9.3 0.9.4`` builds an environment a release and runs the real ``llamafactory-cli`` in it;
docs/compatibility.md says how, and what came out. `test_compat` runs one release under pytest.
"""
