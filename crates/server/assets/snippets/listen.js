// npm install pusher-js
import Pusher from "pusher-js";

const pusher = new Pusher("fanfare-key", {
  cluster: "", wsHost: "127.0.0.1", wsPort: 6001, forceTLS: false, enabledTransports: ["ws"],
});
pusher.subscribe("news").bind("message", (data) => console.log(data));
