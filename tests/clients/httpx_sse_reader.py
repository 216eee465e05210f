"""httpx-sse behind a network that keeps failing: it comes back with the last id, and misses nothing."""

import json
import os
import socket
import threading
import unittest

import httpx
import pusher
from httpx_sse import connect_sse

HOST = os.environ["FANFARE_HOST"]
PORT = int(os.environ["FANFARE_PORT"])
APP_ID = os.environ["FANFARE_APP_ID"]
KEY = os.environ["FANFARE_KEY"]
SECRET = os.environ["FANFARE_SECRET"]
PATIENCE_S = 30
MESSAGES = 200
DROPS = 4

api = pusher.Pusher(app_id=APP_ID, key=KEY, secret=SECRET, host=HOST, port=PORT, ssl=False)


class Proxy:
    """Passes connections on, until it is told to drop them."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            upstream = socket.create_connection((HOST, PORT))
            self.sockets += [client, upstream]
            for ends in [(client, upstream), (upstream, client)]:
                threading.Thread(target=self.copy, args=ends, daemon=True).start()

    @classmethod
    def copy(cls, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        cls.end(source, sink)

    def drop(self):
        self.end(*self.sockets)
        self.sockets.clear()

    @staticmethod
    def end(*sockets):
        """Not `close`: that would wait for whoever reads."""
        for each in sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Reader(unittest.TestCase):
    def test_it_comes_back_with_the_last_id_and_misses_nothing(self):
        proxy = Proxy()
        url = f"http://127.0.0.1:{proxy.port}/sub/{KEY}/room"
        subscribed = threading.Event()

        def publish():
            self.assertTrue(subscribed.wait(PATIENCE_S))
            for number in range(MESSAGES):
                api.trigger("room", "message", str(number))
                if number % (MESSAGES // DROPS) == MESSAGES // DROPS // 2:
                    proxy.drop()

        publishing = threading.Thread(target=publish)
        publishing.start()
        heard, last_id, confirmations = [], "", []
        with httpx.Client(timeout=PATIENCE_S) as client:
            while len(heard) < MESSAGES:
                headers = {"Last-Event-ID": last_id} if last_id else {}
                try:
                    with connect_sse(client, "GET", url, headers=headers) as source:
                        for event in source.iter_sse():
                            last_id = event.id or last_id
                            if event.event == "fanfare:subscribed":
                                confirmations.append(json.loads(event.data).get("recovered"))
                                subscribed.set()
                            elif event.event == "message":
                                heard.append(int(event.data))
                            if len(heard) == MESSAGES:
                                break
                except httpx.TransportError:
                    pass
        publishing.join()
        self.assertEqual(heard, list(range(MESSAGES)))
        self.assertGreater(len(confirmations), 1, "no connection was dropped")
        self.assertEqual(set(confirmations[1:]), {True})


if __name__ == "__main__":
    unittest.main()
