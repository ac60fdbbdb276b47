"""Certificates of a test's own: an authority, and what it signs, as files."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.planted import remember

_NOW = datetime.now(UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A CA whose certificate is `ca`; every pair it signs is a file of each, side by side."""

    def __init__(self, directory: Path, name: str = "tests") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.ca = directory / f"{name}-ca.crt"
        self.ca.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, hours: int = 12) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW - timedelta(hours=12))
            .not_valid_after(_NOW + timedelta(hours=hours))
        )

    def pair(self, name: str, address: str = "127.0.0.1", hours: int = 12) -> tuple[Path, Path]:
        """Sign a certificate for an address (127.0.0.1 is localhost, too) and some hours, and return it and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        local = [x509.DNSName("localhost")] if address == "127.0.0.1" else []
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), *local])
        certificate = self._builder(_name(name), key, hours).add_extension(names, critical=False)
        paths = self.directory / f"{name}.cert", self.directory / f"{name}.key"
        paths[0].write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        paths[1].write_bytes(private)
        remember(private.decode())
        return paths


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def locked(key: Path) -> bytes:
    """Return a key as a file that wants a passphrase."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"passphrase")
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def server_context(pair: tuple[Path, Path], clients: Path | None = None) -> ssl.SSLContext:
    """Return what a server shows, and whose clients alone it lets in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
