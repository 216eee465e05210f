// A load balancer without stickiness: each request goes to the next of the servers on the ports that it is given. It says
// where it listens.

import { createServer, request } from 'node:http';

const ports = process.argv.slice(2).map(Number);
let turn = 0;

const server = createServer((asked, answer) => {
  const port = ports[turn++ % ports.length];
  const { method, url, headers } = asked;
  const upstream = request({ host: '127.0.0.1', port, path: url, method, headers, agent: false }, (answered) => {
    answer.writeHead(answered.statusCode, answered.headers);
    answer.flushHeaders();
    answered.pipe(answer);
    answered.on('error', () => answer.destroy());
  });
  upstream.on('error', () => answer.destroy());
  answer.on('close', () => upstream.destroy());
  asked.pipe(upstream);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
