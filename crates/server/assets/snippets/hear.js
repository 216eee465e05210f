import { Fanfare } from "http://127.0.0.1:6001/fanfare.js";

const feed = new Fanfare("http://127.0.0.1:6001", "fanfare-key", { channels: ["news"] });
feed.on("message", ({ event, data }) => console.log(event, data));
