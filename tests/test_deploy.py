"""What deploy/ holds is what its readers take, and `manage.py deploy` brings a version into service, workers in turn."""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from django.core.management import CommandError, call_command

from tests.processes.stack import ROOT
from tests.systemd import problems_of_unit, read_unit

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))

# what a compose file may say, of what ours says (compose-spec)
_TEXTS = {"type": "array", "items": {"type": "string"}}
_SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "anyOf": [{"required": ["image"]}, {"required": ["build"]}],
    "properties": {
        "image": {"type": "string"},
        "build": {"type": "object", "required": ["context"], "properties": {"context": {}, "dockerfile": {}}},
        "env_file": {"type": "string"},
        "environment": {"type": "object", "additionalProperties": {"type": "string"}},
        "command": _TEXTS,
        "user": {"type": "string"},
        "ports": _TEXTS,
        "volumes": _TEXTS,
        "init": {"type": "boolean"},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "stop_grace_period": {"type": "string", "pattern": "^[0-9]+s$"},
        "ulimits": {"type": "object"},
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "test": {"type": "array", "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}]},
                "interval": {"type": "string"},
                "start_period": {"type": "string"},
                "retries": {"type": "integer"},
                "disable": {"type": "boolean"},
            },
        },
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["condition"],
                "properties": {"condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}},
            },
        },
    },
}
COMPOSE = {
    "type": "object",
    "required": ["services"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "services": {"type": "object", "additionalProperties": _SERVICE},
        "volumes": {"type": "object"},
    },
}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def manifests() -> list[dict[str, Any]]:
    return [found for file in (DEPLOY / "kubernetes").glob("*.yaml") for found in yaml.safe_load_all(file.read_text())]


def containers() -> dict[str, dict[str, Any]]:
    """Give each container by the name of what runs it."""
    found = [manifest for manifest in manifests() if "template" in manifest["spec"]]
    return {m["metadata"]["name"]: m["spec"]["template"]["spec"]["containers"][0] for m in found}


class TestCompose:
    def test_is_of_the_form_of_compose_files(self):
        jsonschema.Draft202012Validator(COMPOSE).validate(compose())

    def test_names_only_what_there_is(self):
        content = compose()
        services = content["services"]
        assert {"web", "loops", "work", "postgres", "dragonfly"} <= services.keys()
        for service in services.values():
            assert service.get("depends_on", {}).keys() <= services.keys()
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                assert source in content["volumes"] or (DEPLOY / source).exists()

    def test_the_stream_server_has_password_tls_and_snapshots(self):
        service = compose()["services"]["dragonfly"]
        assert "DFLY_requirepass" in service["environment"]
        assert "--tls" in service["command"]
        assert any(word.startswith("--snapshot_cron=") for word in service["command"])
        assert not any("STREAM_PASSWORD" in word for word in service["command"])
        for name in ("web", "loops", "work"):
            environment = compose()["services"][name]["environment"]
            assert environment["DRAGONFLY_URL"].startswith("rediss://")
            assert environment["NOVAWF_STREAM_CA_FILE"] == "/certificates/ca.pem"

    def test_every_variable_is_in_the_example_of_settings(self):
        wanted = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
        assert wanted <= set(re.findall(r"^([A-Z_]+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))

    def test_the_certificates_are_made_once_and_good(self, tmp_path):
        certificates = compose()["services"]["certificates"]["command"]
        names = certificates[certificates.index("/server") + 1 :]
        command = ["sh", str(DEPLOY / "make-certificates.sh"), str(tmp_path / "ca"), str(tmp_path / "server"), *names]
        assert "good for" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
        made = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
        assert {path.name for path in made} == {"ca.pem", "server.pem", "server-key.pem"}
        trusting = ssl.create_default_context(cafile=str(tmp_path / "ca" / "ca.pem"))
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(tmp_path / "server" / "server.pem", tmp_path / "server" / "server-key.pem")
        for name in ("dragonfly", "127.0.0.1"):
            _shake_hands(trusting, serving, name)
        with pytest.raises(ssl.SSLCertVerificationError):
            _shake_hands(trusting, serving, "elsewhere")
        assert "nothing was changed" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.pem")} == made


def _shake_hands(trusting: ssl.SSLContext, serving: ssl.SSLContext, name: str) -> None:
    """Let both sides of a connection talk until each is content."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        trusting.wrap_bio(to_client, to_server, server_hostname=name),
        serving.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                pass


class TestKubernetes:
    def test_every_manifest_says_what_it_is(self):
        kinds = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests()]
        assert kinds == [
            ("Job", "novawf-prepare"), ("Deployment", "novawf-web"), ("StatefulSet", "novawf-loops"),
            ("StatefulSet", "novawf-work"), ("Service", "novawf"),
        ]  # fmt: skip
        assert all("/" in manifest["apiVersion"] or manifest["apiVersion"] == "v1" for manifest in manifests())

    def test_what_is_selected_is_what_is_labelled(self):
        for manifest in manifests():
            if manifest["kind"] in ("Deployment", "StatefulSet"):
                labels = manifest["spec"]["template"]["metadata"]["labels"]
                assert manifest["spec"]["selector"]["matchLabels"] == labels

    def test_mounts_are_of_volumes_that_there_are(self):
        for manifest in manifests():
            if "template" in manifest["spec"]:
                pod = manifest["spec"]["template"]["spec"]
                volumes = {volume["name"] for volume in pod["volumes"]}
                assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes

    def test_probes_ask_for_a_name_and_an_address_that_there_are(self):
        web = containers()["novawf-web"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = web[probe]["httpGet"]
            assert asked["path"] == "/healthz"
            assert asked["httpHeaders"][0]["name"] == "Host"

    def test_workers_are_known_by_names_that_stay(self):
        for name in ("novawf-loops", "novawf-work"):
            container = containers()[name]
            named = next(variable for variable in container["env"] if variable["name"] == "NOVAWF_HOST")
            assert named["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
            assert "workers-*.lock" in container["livenessProbe"]["exec"]["command"][-1]


class TestUnits:
    @pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
    def test_are_what_systemd_takes(self, unit, tmp_path):
        shown = tmp_path / unit.name.replace("@", "@loops")
        shown.write_text(unit.read_text())
        assert problems_of_unit(shown) == []

    @pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
    def test_give_no_more_rights_than_needed(self, unit):
        service = read_unit(unit)["Service"]
        assert (service["User"], service["UMask"], service["NoNewPrivileges"]) == ("novawf", "0077", "yes")
        assert service["ProtectSystem"] == "strict"


def test_the_image_is_probed_by_a_name_that_is_allowed():
    words = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text())
    found = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", words, re.MULTILINE)
    assert found
    asked: list[tuple[str, str]] = []

    class Probed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Host"]))
            self.send_response(200 if len(asked) == 1 else 503)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Probed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "NOVAWF_ALLOWED_HOSTS": ".example.com,b", "PORT": str(server.server_port)}
    command = [sys.executable, *json.loads(found[1])[1:]]
    codes = [subprocess.run(command, env=environment, capture_output=True, check=False).returncode for _ in range(2)]
    server.shutdown()
    server.server_close()
    assert asked == [("/healthz", "example.com")] * 2
    assert codes == [0, 1]


def test_the_proxy_passes_events_on_and_says_which_scheme_was_used():
    words = (DEPLOY / "Caddyfile").read_text()
    assert words.count("{") == words.count("}")
    assert "flush_interval -1" in words
    assert "X-Forwarded-Proto {scheme}" in words


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("redis://:a-long-password@streams.example:6379/0", False),
        ("rediss://:a-long-password@streams.example:6379/0", True),
        ("redis://:a-long-password@127.0.0.1:6379/0", True),
        ("unix:///run/streams.sock", True),
    ],
)
def test_production_takes_no_unencrypted_stream_server_elsewhere(tmp_path, address, taken):
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "novawf_site.settings",
        "NOVAWF_PRODUCTION": "1",
        "NOVAWF_ALLOWED_HOSTS": "nova.example.com",
        "NOVAWF_SECRET_KEY": "kU3" * 20,
        "NOVAWF_OPERATOR_KEY": "Zk9" * 20,
        "NOVAWF_VAR_DIR": str(tmp_path),
        "DRAGONFLY_URL": address,
    }
    command = [sys.executable, "-c", "import novawf_site.settings"]
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode == 0) == taken, found.stderr
    assert taken or "rediss://" in found.stderr


# -- manage.py deploy


@pytest.mark.django_db
class TestDeployChecks:
    def look(self) -> tuple[int, dict[str, list[str]]]:
        out = StringIO()
        try:
            call_command("deploy", check=True, json=True, stdout=out)
        except SystemExit as ended:
            return int(str(ended.code)), json.loads(out.getvalue())
        return 0, json.loads(out.getvalue())

    @pytest.fixture(autouse=True)
    def _static(self, settings, tmp_path) -> None:
        settings.STATIC_ROOT = tmp_path / "static"

    def test_what_is_to_be_done_is_said(self, stream):
        code, found = self.look()
        assert (code, found) == (3, {"problems": [], "to_do": ["static files are to be collected"]})

    def test_a_stream_server_that_is_away_stands_against_it(self, stream_server):
        stream_server.stop()
        code, found = self.look()
        assert code == 1
        assert "could not be reached" in found["problems"][0]
        with pytest.raises(CommandError, match="Nothing was changed"):
            call_command("deploy", apply=True)

    def test_a_failed_system_check_stands_against_it(self, stream, settings):
        settings.DRAGONFLY_URL, settings.PRODUCTION, settings.SECRET_KEY = settings.DRAGONFLY_URL, True, "short"
        code, found = self.look()
        assert code == 1
        assert "novawf.E001" in found["problems"][0]
