"""The jars of Apache Kafka, brought once from Maven into a cache folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

from boost_streams.embedded.process import EmbeddedServerError, ManagedProcess, run_tool

KAFKA_FILES = Path(__file__).resolve().parents[2] / "deploy" / "kafka"
_OLDEST_JAVA = 17
_DOWNLOAD_SECONDS = 900.0
_COMPLETE = ".complete"


def kafka_version() -> str:
    """Return the version of Kafka that ``deploy/kafka/pom.xml`` pins.

    Raises:
        EmbeddedServerError: this installation came without the repository's ``deploy/kafka`` folder.
    """
    pom = KAFKA_FILES / "pom.xml"
    try:
        found = re.search(r"<kafka\.version>([^<]+)<", pom.read_text())
    except OSError as error:
        raise EmbeddedServerError(
            f"a real Kafka needs {pom}: run boost from a clone of its repository, or set KAFKA_BROKER"
        ) from error
    if found is None:
        raise EmbeddedServerError(f"{pom} names no kafka.version")
    return found.group(1)


def java_program() -> str:
    """Return the Java launcher: ``$JAVA_HOME/bin/java``, else ``java`` on PATH.

    Raises:
        EmbeddedServerError: there is none; the message says what to install.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    java = java or shutil.which("java")
    if java is None:
        raise EmbeddedServerError(
            f"a real Kafka needs Java {_OLDEST_JAVA} or newer and there is no java on PATH: install it "
            "(Debian, Ubuntu: apt install openjdk-17-jre-headless; macOS: brew install openjdk@17)"
        )
    return java


def check_java_version(java: str) -> None:
    """Check that ``java`` is new enough for Kafka.

    Raises:
        EmbeddedServerError: it is too old, or does not run.
    """
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', answer)
    if found is None or int(found.group(1)) < _OLDEST_JAVA:
        said = (answer.strip().splitlines() or ["it does not run"])[0]
        raise EmbeddedServerError(f"a real Kafka needs Java {_OLDEST_JAVA} or newer; {java} says: {said}")


def cache_folder() -> Path:
    """Return where downloads are kept: ``$BOOST_CACHE_DIR``, else ``~/.cache/boost-streams``."""
    if given := os.environ.get("BOOST_CACHE_DIR"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "boost-streams"


def kafka_available() -> str | None:
    """Return None when a real Kafka can be started here, else the reason why not."""
    try:
        check_java_version(java_program())
        if not _is_complete(cache_folder() / f"kafka-{kafka_version()}"):
            _maven_program()
    except EmbeddedServerError as error:
        return str(error)
    return None


def kafka_jars() -> Path:
    """Return the folder with Kafka's jars, bringing them first if they are not there.

    Two processes that need them at once wait for one another, and an interrupted download is begun again.

    Raises:
        EmbeddedServerError: Maven is missing or cannot bring them.
    """
    jars = cache_folder() / f"kafka-{kafka_version()}"
    if _is_complete(jars):
        return jars
    maven = _maven_program()
    jars.parent.mkdir(parents=True, exist_ok=True)
    with jars.with_name(f"{jars.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_complete(jars):
            _download(maven, jars)
    return jars


def _is_complete(jars: Path) -> bool:
    return (jars / _COMPLETE).exists()


def _maven_program() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise EmbeddedServerError(
            "a real Kafka is brought by Maven the first time and there is no mvn on PATH: install it "
            "(Debian, Ubuntu: apt install maven; macOS: brew install maven)"
        )
    return maven


def _download(maven: str, jars: Path) -> None:
    shutil.rmtree(jars, ignore_errors=True)
    log_path = jars.with_name(f"{jars.name}.log")
    log_path.unlink(missing_ok=True)
    argv = [maven, "-B", "-q", "-f", str(KAFKA_FILES / "pom.xml"), "dependency:copy-dependencies"]
    run_tool(ManagedProcess("maven", [*argv, f"-DoutputDirectory={jars}"], log_path), _DOWNLOAD_SECONDS)
    (jars / _COMPLETE).touch()
