// A proxy between a client and the server that can do what proxies and trains do: drop connections, refuse a transport,
// swallow what is said.

import { connect, createServer } from 'node:net';
import { atEnd } from './runner.mjs';

/** Starts one in front of this port of this machine. */
export async function proxy(port) {
  const pairs = new Set();
  const self = {
    /** Transports that do not get through: `ws`, `sse`, … */
    blocked: new Set(),
    /** Whether answers are swallowed while connections stay open. */
    silent: false,
    /** Transports in the order in which they were asked for. */
    asked: [],
    /** Drops all connections; with transports, those that carry one of them. */
    drop(...transports) {
      for (const { sockets, carries } of pairs) {
        if (!transports.length || transports.includes(carries.transport)) {
          sockets.forEach((socket) => socket.destroy());
        }
      }
    },
    block(...transports) {
      transports.forEach((transport) => self.blocked.add(transport));
      self.drop(...transports);
    },
  };
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    const pair = { sockets: [client, upstream], carries: {} };
    pairs.add(pair);
    for (const socket of pair.sockets) {
      socket.on('error', () => {});
      socket.on('close', () => {
        pair.sockets.forEach((each) => each.destroy());
        pairs.delete(pair);
      });
    }
    client.on('data', (chunk) => {
      const transport = /^GET \S*[?&]transport=(\w+)/.exec(chunk.toString('latin1'))?.[1];
      if (transport) {
        pair.carries.transport = transport;
        self.asked.push(transport);
      }
      if (self.blocked.has(pair.carries.transport)) {
        client.destroy();
      } else {
        upstream.write(chunk);
      }
    });
    upstream.on('data', (chunk) => self.silent || client.write(chunk));
  });
  atEnd(() => server.close());
  atEnd(() => self.drop());
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  self.url = `http://127.0.0.1:${server.address().port}`;
  return self;
}
