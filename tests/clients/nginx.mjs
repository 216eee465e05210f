// Debian's nginx in front of the server, with everything as it is by default: it buffers answers, asks the server in
// HTTP/1.0, and ends what is silent for a minute.

import { spawn } from 'node:child_process';
import { access, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from './lib.mjs';
import { atEnd } from './runner.mjs';

/** Starts nginx in front of an address; it can be stopped and started again on its own port. */
export async function nginx(upstream) {
  const folder = await mkdtemp(join(tmpdir(), 'nginx-'));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`);
  await writeFile(join(folder, 'nginx.conf'), `
    daemon off;
    master_process off;
    pid ${folder}/pid;
    error_log ${folder}/error.log;
    events {}
    http {
      access_log off;
      ${temporary.join('\n')}
      server {
        listen 127.0.0.1:${port};
        location / { proxy_pass ${upstream}; }
      }
    }`);
  let running;
  const self = {
    url,
    async start() {
      running = spawn(await executable(), ['-p', folder, '-c', 'nginx.conf', '-e', 'error.log'], { stdio: 'inherit' });
      await until(() => fetch(url).then(() => true, () => false), 'nginx');
    },
    async stop() {
      const ended = new Promise((resolve) => running.on('exit', resolve));
      running.kill('SIGTERM');
      await ended;
    },
  };
  await self.start();
  atEnd(async () => {
    running.kill('SIGKILL');
    await rm(folder, { recursive: true, force: true });
  });
  return self;
}

async function executable() {
  for (const path of ['/usr/sbin/nginx', '/usr/bin/nginx']) {
    if (await access(path).then(() => true, () => false)) {
      return path;
    }
  }
  throw new Error('no nginx: run `cargo xtask setup`');
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
