"""Connections as pip makes them: its proxies, certificates and trusted hosts."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import certifi
import urllib3
from urllib3.exceptions import InsecureRequestWarning

from torchkiln import urls
from torchkiln.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.pipconf import PipConfig


class Connections:
    """A urllib3 pool for each way to a host: through which proxy, with certificates or without."""

    def __init__(self, config: PipConfig, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def pool(self, url: str) -> urllib3.PoolManager:
        """Return the pool for `url`; a certificate file that cannot be read raises `FetchError`."""
        way = self._proxy(url), not self._is_trusted(url)
        with self._lock:
            if way not in self._pools:
                self._pools[way] = self._new_pool(*way)
            return self._pools[way]

    def close(self) -> None:
        """Close all idle connections."""
        for pool in self._pools.values():
            pool.clear()

    def _new_pool(self, proxy: str, verify: bool) -> urllib3.PoolManager:  # noqa: FBT001
        context = ssl_context(self._config, self._environ, verify=verify)
        if not verify:
            # The person who wrote `trusted-host` has been warned by pip.
            urllib3.disable_warnings(InsecureRequestWarning)
        timeout = urllib3.Timeout(self._config.timeout)
        if not proxy:
            return urllib3.PoolManager(maxsize=8, timeout=timeout, ssl_context=context)
        return urllib3.ProxyManager(
            urls.plain(proxy),
            proxy_headers=urllib3.make_headers(proxy_basic_auth=urls.userinfo(proxy)),
            proxy_ssl_context=ssl_context(self._config, self._environ, verify=True),
            maxsize=8,
            timeout=timeout,
            ssl_context=context,
        )

    def _proxy(self, url: str) -> str:
        """Return pip's own proxy, else what HTTP(S)_PROXY, ALL_PROXY and NO_PROXY say, or ""."""
        scheme, host = urls.origin(url)
        proxy = self._config.proxy
        if not proxy:
            if proxy_bypass_environment(host, {"no": self._variable("no_proxy")}):
                return ""
            proxy = self._variable(f"{scheme}_proxy") or self._variable("all_proxy")
        return proxy if "://" in proxy or not proxy else f"http://{proxy}"

    def _variable(self, name: str) -> str:
        return self._environ.get(name) or self._environ.get(name.upper()) or ""

    def _is_trusted(self, url: str) -> bool:
        """Tell whether `trusted-host` names the host, alone or with its port."""
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        names = {parts.hostname, f"{parts.hostname}:{port}"}
        return not names.isdisjoint(self._config.trusted_hosts)


def ssl_context(config: PipConfig, environ: Mapping[str, str], *, verify: bool) -> ssl.SSLContext:
    """Return how servers are verified, by the first of these rules that applies.

    pip's `cert`; REQUESTS_CA_BUNDLE; CURL_CA_BUNDLE (requests' rules); else the system's store,
    SSL_CERT_FILE and SSL_CERT_DIR, and certifi's for systems without one (pip 24.2 and later).
    """
    named = config.cert or environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    chosen = [named or environ.get("SSL_CERT_FILE"), None if named else environ.get("SSL_CERT_DIR")]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if not named:
        context.load_default_certs()
        context.load_verify_locations(certifi.where())
    for path in filter(None, chosen):
        _load(context, path)
    if config.client_cert:
        _load_client(context, config.client_cert)
    return context


def _load(context: ssl.SSLContext, path: str) -> None:
    is_folder = Path(path).is_dir()
    try:
        context.load_verify_locations(None if is_folder else path, path if is_folder else None)
    except OSError as error:
        raise _unreadable(path, error) from None


def _load_client(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_cert_chain(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> FetchError:
    what = f"a certificate file cannot be read: {path}"
    return FetchError(what, error.strerror or str(error), "python -m pip config list")
