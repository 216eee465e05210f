# pip install pusher
import pusher

client = pusher.Pusher(app_id="1", key="fanfare-key", secret="fanfare-secret", host="127.0.0.1", port=6001, ssl=False)
client.trigger(["news", "presence-demo"], "message", "hello from Python")
