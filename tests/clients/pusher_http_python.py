"""The Python server library: every call that it has, seen from a socket's end.

The library signs every request with a body_md5, GETs included, and posts terminations to a path without the app's
prefix; both must work. Its subscribers are plain WebSockets here, as there is no Python client for them.
"""

import base64
import hashlib
import json
import os
import unittest

import nacl.secret
import pusher
import pusher.errors
import websocket

HOST = os.environ["FANFARE_HOST"]
PORT = int(os.environ["FANFARE_PORT"])
APP_ID = os.environ["FANFARE_APP_ID"]
KEY = os.environ["FANFARE_KEY"]
SECRET = os.environ["FANFARE_SECRET"]
MASTER_KEY = base64.b64encode(b"f" * 32).decode()
PATIENCE_S = 30

names = (f"room-{n}" for n in range(1_000_000))


def library(**changed):
    options = {"app_id": APP_ID, "key": KEY, "secret": SECRET, "host": HOST, "port": PORT, "ssl": False,
               "encryption_master_key_base64": MASTER_KEY}
    return pusher.Pusher(**{**options, **changed})


api = library()


class Socket:
    """A subscriber: what the library's authorisations are good for."""

    def __init__(self):
        self.ws = websocket.create_connection(f"ws://{HOST}:{PORT}/app/{KEY}?protocol=7", timeout=PATIENCE_S)
        self.id = json.loads(self.await_event("pusher:connection_established")["data"])["socket_id"]

    def say(self, event, data):
        self.ws.send(json.dumps({"event": event, "data": data}))

    def await_event(self, event):
        """The next message of this event; counts and the like are passed over."""
        while True:
            message = json.loads(self.ws.recv())
            if message["event"] == event:
                return message

    def subscribe(self, channel, member=None):
        auth = {"auth": ""}
        if channel.startswith(("private-", "presence-")):
            auth = api.authenticate(channel, self.id, member)
        self.say("pusher:subscribe", {"channel": channel, **text(auth)})
        return json.loads(self.await_event("pusher_internal:subscription_succeeded")["data"])

    def sign_in(self, user):
        self.say("pusher:signin", api.authenticate_user(self.id, user))
        return json.loads(self.await_event("pusher:signin_success")["data"])

    def messages_until_settled(self):
        """All that was on its way when this was called."""
        self.say("pusher:ping", {})
        messages = []
        while True:
            message = json.loads(self.ws.recv())
            if message["event"] == "pusher:pong":
                return messages
            messages.append(message)


def text(auth):
    """The shared secret comes as bytes, and is for the client alone."""
    return {name: value for name, value in auth.items() if name != "shared_secret"}


class Calls(unittest.TestCase):
    def socket(self):
        socket = Socket()
        self.addCleanup(socket.ws.close)
        return socket

    def subscribed(self, channel, member=None):
        socket = self.socket()
        socket.subscribe(channel, member)
        return socket

    def test_trigger(self):
        channel = next(names)
        socket = self.subscribed(channel)
        self.assertEqual(api.trigger(channel, "said", {"n": 1}), {})
        message = socket.await_event("said")
        self.assertEqual((message["channel"], json.loads(message["data"])), (channel, {"n": 1}))

    def test_trigger_on_many_channels(self):
        channels = [next(names) for _ in range(100)]
        first, last = self.subscribed(channels[0]), self.subscribed(channels[-1])
        self.assertEqual(api.trigger(channels, "said", "ü"), {})
        self.assertEqual([first.await_event("said")["data"], last.await_event("said")["data"]], ["ü", "ü"])

    def test_trigger_leaves_out_a_socket(self):
        channel = next(names)
        socket = self.subscribed(channel)
        api.trigger(channel, "said", "x", socket.id)
        self.assertNotIn("said", [message["event"] for message in socket.messages_until_settled()])

    def test_trigger_on_an_encrypted_channel(self):
        channel = "private-encrypted-" + next(names)
        socket = self.subscribed(channel)
        api.trigger(channel, "said", "secret")
        sealed = json.loads(socket.await_event("said")["data"])
        key = hashlib.sha256(channel.encode() + b"f" * 32).digest()
        opened = nacl.secret.SecretBox(key).decrypt(
            base64.b64decode(sealed["ciphertext"]), base64.b64decode(sealed["nonce"]))
        self.assertEqual(opened, b"secret")

    def test_trigger_batch(self):
        one, two = next(names), next(names)
        sockets = [self.subscribed(one), self.subscribed(two)]
        batch = [{"channel": one, "name": "said", "data": {"n": 1}}, {"channel": two, "name": "said", "data": "two"}]
        self.assertEqual(api.trigger_batch(batch), {})
        self.assertEqual([socket.await_event("said")["data"] for socket in sockets], ['{"n": 1}', "two"])
        encoded = [{"channel": one, "name": "said", "data": "[1]"}]
        self.assertEqual(api.trigger_batch(encoded, already_encoded=True), {})
        self.assertEqual(sockets[0].await_event("said")["data"], "[1]")

    def test_channels_info(self):
        room, other = "presence-list-" + next(names), next(names)
        self.subscribed(room, {"user_id": "ann"})
        self.subscribed(other)
        everything = api.channels_info()["channels"]
        self.assertEqual([everything[room], everything[other]], [{}, {}])
        self.assertEqual(api.channels_info("presence-list-", ["user_count"]), {"channels": {room: {"user_count": 1}}})
        counts = api.channels_info(other, ["subscription_count"])["channels"]
        self.assertEqual(counts[other], {"subscription_count": 1})
        self.assertEqual(api.channels_info("nothing-"), {"channels": {}})
        with self.assertRaises(pusher.errors.PusherBadRequest):
            api.channels_info(attributes=["user_count"])

    def test_channel_info(self):
        room = "presence-" + next(names)
        self.subscribed(room, {"user_id": "ann"})
        self.subscribed(room, {"user_id": "ann"})
        self.assertEqual(api.channel_info(room), {"occupied": True})
        self.assertEqual(api.channel_info(room, ["user_count", "subscription_count"]),
                         {"occupied": True, "user_count": 1, "subscription_count": 2})
        self.assertEqual(api.channel_info(next(names)), {"occupied": False})

    def test_users_info(self):
        room = "presence-" + next(names)
        self.subscribed(room, {"user_id": 7, "user_info": {"name": "Ann"}})
        self.assertEqual(api.users_info(room), {"users": [{"id": "7"}]})
        self.assertEqual(api.users_info("presence-" + next(names)), {"users": []})
        with self.assertRaises(pusher.errors.PusherBadRequest):
            api.users_info(next(names))

    def test_authenticate(self):
        self.subscribed("private-" + next(names))
        self.subscribed("private-" + next(names), {"any": "data"})
        presence = self.socket().subscribe("presence-" + next(names), {"user_id": "ann", "user_info": {"name": "ü"}})
        self.assertEqual(presence["presence"], {"ids": ["ann"], "hash": {"ann": {"name": "ü"}}, "count": 1})

    def test_authenticate_user_and_send_to_user(self):
        socket = self.socket()
        user = {"id": "ben", "user_info": {"name": "Ben"}}
        self.assertEqual(json.loads(socket.sign_in(user)["user_data"]), user)
        socket.subscribe("#server-to-user-ben")
        self.assertEqual(api.send_to_user("ben", "notice", {"n": 1}), {})
        self.assertEqual(json.loads(socket.await_event("notice")["data"]), {"n": 1})

    def test_terminate_user_connections(self):
        socket = self.socket()
        socket.sign_in({"id": "cat"})
        self.assertEqual(api.terminate_user_connections("cat"), {})
        opcode, payload = self.close_frame(socket)
        self.assertEqual((opcode, payload[:2]), (websocket.ABNF.OPCODE_CLOSE, (4009).to_bytes(2, "big")))

    def close_frame(self, socket):
        while True:
            opcode, payload = socket.ws.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return opcode, payload

    def test_from_url_and_from_env(self):
        url = f"http://{KEY}:{SECRET}@{HOST}/apps/{APP_ID}"
        self.assertEqual(pusher.Pusher.from_url(url, port=PORT).trigger(next(names), "said", "x"), {})
        os.environ["PUSHER_URL"] = url
        self.assertEqual(pusher.Pusher.from_env(port=PORT).channels_info("nothing-"), {"channels": {}})

    def test_refusals(self):
        with self.assertRaisesRegex(pusher.errors.PusherBadAuth, "/events"):
            library(secret="wrong").trigger(next(names), "said", "x")
        with self.assertRaises(pusher.errors.PusherBadAuth):
            library(key="unknown").trigger(next(names), "said", "x")
        with self.assertRaisesRegex(pusher.errors.PusherBadStatus, "413"):
            api.trigger(next(names), "said", "x" * (10 * 1024 + 1))


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
