"""``python -m tests.config`` writes config/statecar.yaml anew."""

from proxy.settings import options_yaml
from tests.config.files import CONFIG

(CONFIG / "statecar.yaml").write_text(options_yaml(), "utf-8")
