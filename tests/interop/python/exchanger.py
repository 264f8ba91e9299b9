"""An issuer that exchanges tokens (RFC 8693), by a library that nobody here has written: idpyoidc.

    exchanger.py RESOURCE

It stands apart because the grant, what it demands of a request and what it answers are idpyoidc's; this script is
the way from a socket to it. It prints its address, ends with its standard input, gives `/of/USER` a token that was
made out for chillgate, and shows its keys at `/jwks`. It exchanges tokens for RESOURCE alone.
"""

import json
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from idpyoidc.message.oidc import AuthorizationRequest
from idpyoidc.server import Server
from idpyoidc.server.authn_event import create_authn_event
from idpyoidc.server.authz import AuthzHandling
from idpyoidc.server.configure import ASConfiguration
from idpyoidc.server.oauth2.authorization import Authorization
from idpyoidc.server.oauth2.token import Token
from idpyoidc.server.oauth2.token_helper import validate_token_exchange_policy
from idpyoidc.server.user_authn.authn_context import INTERNETPROTOCOLPASSWORD
from idpyoidc.server.user_info import UserInfo

RESOURCE = sys.argv[1]
SIGNING = [{"type": "EC", "crv": "P-256", "use": ["sig"]}]
SEALING = [{"type": "OCT", "use": ["enc"], "kid": "password"}, {"type": "OCT", "use": ["enc"], "kid": "salt"}]
SEALS = {"kwargs": {"keys": {"key_defs": SEALING}, "iterations": 1}}
HELPERS = "idpyoidc.server.oauth2.token_helper"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
REDIRECT = "https://host.example/back"


def configuration(issuer: str) -> dict:
    rules = {"access_token": {"supports_minting": ["access_token"]}}
    policy = {"resource": [RESOURCE], "audience": [RESOURCE], "scope": ["mcp"]}
    exchange = {
        "class": f"{HELPERS}.token_exchange.TokenExchangeHelper",
        "kwargs": {
            "requested_token_types_supported": [ACCESS_TOKEN],
            "policy": {"": {"function": validate_token_exchange_policy, "kwargs": policy}},
        },
    }
    return {
        "issuer": issuer,
        "httpc_params": {"verify": False},
        "subject_types_supported": ["public"],
        "keys": {"uri_path": "jwks", "key_defs": SIGNING},
        "scopes_supported": ["mcp"],
        "allowed_scopes": ["mcp"],
        "scopes_to_claims": {"mcp": ["sub"]},
        "authz": {"class": AuthzHandling, "kwargs": {"grant_config": {"usage_rules": rules, "expires_in": 43200}}},
        "token_handler_args": {
            "jwks_defs": {"key_defs": SIGNING},
            "code": {"lifetime": 600, "kwargs": {"crypt_conf": SEALS}},
            "token": {"class": "idpyoidc.server.token.jwt_token.JWTToken", "kwargs": {"lifetime": 3600}},
        },
        "endpoint": {
            "authorization": {"path": "authorization", "class": Authorization, "kwargs": {}},
            "token": {
                "path": "token",
                "class": Token,
                "kwargs": {
                    "client_authn_method": ["client_secret_basic"],
                    "grant_types_helpers": {EXCHANGE: exchange},
                },
            },
        },
        "authentication": {
            "anon": {
                "acr": INTERNETPROTOCOLPASSWORD,
                "class": "idpyoidc.server.user_authn.user.NoAuthn",
                "kwargs": {"user": "ann"},
            }
        },
        "userinfo": {"class": UserInfo, "kwargs": {"db": {"ann": {}, "eve": {}}}},
        "session_params": {"encrypter": SEALS},
    }


def issuer_at(address: str) -> Server:
    server = Server(ASConfiguration(conf=configuration(address), base_path="."), cwd=".")
    for name, grants in (("host", ["authorization_code"]), ("gateway", [EXCHANGE])):
        server.context.cdb[name] = {
            "client_id": name,
            "client_secret": f"the-secret-of-the-{name}",
            "client_salt": "salted",
            "redirect_uris": [(REDIRECT, None)],
            "response_types_supported": ["code"],
            "allowed_scopes": ["mcp"],
            "grant_types_supported": grants,
            "token_endpoint_auth_method": "client_secret_basic",
        }
    return server


def token_of(server: Server, user: str) -> str:
    """What a user's host has, once the user has been at a browser: a token for chillgate."""
    asked = {"client_id": "host", "redirect_uri": REDIRECT, "scope": ["mcp"], "state": "s", "response_type": "code"}
    manager = server.context.session_manager
    event = create_authn_event(user)
    session = manager.create_session(event, AuthorizationRequest(**asked), user, client_id="host", sub_type="public")
    grant = manager[session]
    grant.resources = ["chillgate"]
    token = grant.mint_token(
        session_id=session,
        context=server.context,
        token_class="access_token",
        token_handler=manager.token_handler["access_token"],
        usage_rules={"supports_minting": ["access_token"]},
    )
    return token.value


def granted(server: Server, body: str, authorization: str) -> tuple[int, dict]:
    form = urllib.parse.parse_qs(body)
    form = {name: said if name in ("resource", "audience") else said[0] for name, said in form.items()}
    endpoint = server.get_endpoint("token")
    heard = {"headers": {"authorization": authorization}}
    answer = endpoint.parse_request(form, http_info=heard)
    if "error" not in answer:
        answer = endpoint.process_request(answer, http_info=heard)
    answer = answer.get("response_args", answer)
    answer = answer.to_dict() if hasattr(answer, "to_dict") else dict(answer)
    if "error" in answer:
        return 400, {name: said for name, said in answer.items() if name.startswith("error")}
    return 200, answer


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        """Nothing: its standard error is for what goes wrong."""

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        if self.path.startswith("/of/"):
            return self.reply(200, token_of(ISSUER, self.path[4:]))
        self.reply(200, ISSUER.keyjar.export_jwks_as_json(issuer_id=""))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        status, answer = granted(ISSUER, body, self.headers.get("authorization", ""))
        self.reply(status, json.dumps(answer))


LISTENING = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
ADDRESS = f"http://127.0.0.1:{LISTENING.server_address[1]}"
ISSUER = issuer_at(ADDRESS)
threading.Thread(target=LISTENING.serve_forever, daemon=True).start()
print(ADDRESS, flush=True)
sys.stdin.read()
