// The demo room: stock pusher-js on a presence channel. Everybody's messages are client events, which the server passes
// on without an application's help; who is here comes from presence.

const ROOM = 'presence-demo';
const MESSAGE = 'client-message';
const MESSAGES_MAX = 200;
/** Clocks further apart than this are not of one machine. */
const SKEW_MS_MAX = 60_000;

const $ = (id) => document.getElementById(id);
const { hostname, port, protocol } = location;

const me = {
  id: (sessionStorage.id ??= Math.random().toString(36).slice(2)),
  name: (sessionStorage.name ??= randomName()),
};

const pusher = new Pusher('fanfare-key', {
  cluster: '',
  wsHost: hostname,
  wsPort: port || 80,
  wssPort: port || 443,
  forceTLS: protocol === 'https:',
  enabledTransports: ['ws', 'wss'],
  channelAuthorization: {
    endpoint: '/pusher/auth',
    transport: 'ajax',
    paramsProvider: () => ({ user_id: me.id, user_info: JSON.stringify({ name: me.name }) }),
  },
});

let channel;
/** When the messages were sent that the server has not answered for yet, oldest first. */
const unanswered = [];

pusher.connection.bind('state_change', ({ current }) => showState(current));
pusher.connection.bind('error', (error) => showState(pusher.connection.state, error?.data?.message));
pusher.connection.bind('message', ({ event }) => event === 'pusher:pong' && answered());
enter();

$('name').value = me.name;
$('name').addEventListener('change', rename);
$('form').addEventListener('submit', send);
document.querySelectorAll('#snippets figure').forEach(prepareSnippet);

function enter() {
  channel = pusher.subscribe(ROOM);
  const showMembers = () => renderMembers(channel.members);
  channel.bind('pusher:subscription_succeeded', () => {
    showMembers();
    $('send').disabled = false;
  });
  channel.bind('pusher:member_added', showMembers);
  channel.bind('pusher:member_removed', showMembers);
  channel.bind(MESSAGE, ({ text, sent_ms }, { user_id }) => {
    const took_ms = now() - sent_ms;
    showMessage({ from: nameOf(user_id), hue: hueOf(user_id), text, took_ms: timed(took_ms, 'from key press to this page') });
  });
  channel.bind_global((event, data) => {
    if (!event.startsWith('pusher:') && event !== MESSAGE) {
      showMessage({ from: `${event}, from a server`, text: textOf(data) });
    }
  });
}

/** Who somebody is on a channel is settled when joining it. */
function rename() {
  me.name = sessionStorage.name = $('name').value.trim() || randomName();
  $('name').value = me.name;
  $('send').disabled = true;
  pusher.unsubscribe(ROOM);
  enter();
}

function send(submit) {
  submit.preventDefault();
  const text = $('text').value.trim();
  if (!text || $('send').disabled || pusher.connection.state !== 'connected') {
    return;
  }
  const sent_ms = now();
  channel.trigger(MESSAGE, { text, sent_ms });
  // A client event is not confirmed. The server answers in order, so the answer to this says that it was passed on.
  pusher.send_event('pusher:ping', {});
  const took_ms = showMessage({ from: me.name, hue: hueOf(me.id), text, mine: true });
  unanswered.push({ sent_ms, took_ms });
  $('text').value = '';
}

function answered() {
  const sent = unanswered.shift();
  if (sent) {
    sent.took_ms.textContent = timed(now() - sent.sent_ms, 'until the server had answered');
  }
}

/** Shows a time as the latest, and returns its text. Times that cannot be true have none. */
function timed(ms, measured) {
  if (!(Math.abs(ms) < SKEW_MS_MAX)) {
    return '';
  }
  const text = `${Math.max(ms, 0).toFixed(1)} ms`;
  $('latency').textContent = text;
  $('measured').textContent = measured;
  return text;
}

/** Adds a message, and returns the element that holds its time. */
function showMessage({ from, hue, text, took_ms = '', mine = false }) {
  const list = $('messages');
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const item = element('li', mine ? 'mine' : '');
  if (hue !== undefined) {
    item.style.setProperty('--hue', hue);
  }
  const time = element('small', '', took_ms);
  item.append(element('strong', '', from), time, element('p', '', text));
  list.append(item);
  while (list.children.length > MESSAGES_MAX) {
    list.firstElementChild.remove();
  }
  if (atEnd || mine) {
    list.scrollTop = list.scrollHeight;
  }
  return time;
}

function renderMembers(members) {
  const items = [];
  members.each(({ id, info }) => {
    const item = element('li', '', `${info?.name ?? id}${id === me.id ? ' (you)' : ''}`);
    item.style.setProperty('--hue', hueOf(id));
    items.push(item);
  });
  $('members').replaceChildren(...items);
  $('count').textContent = members.count;
}

function showState(state, trouble) {
  $('state').dataset.state = state;
  $('state').textContent = trouble ? `${state}: ${trouble}` : state;
  if (state !== 'connected') {
    unanswered.length = 0;
  }
}

/** Fills in where this server is, and makes the button work. */
function prepareSnippet(figure) {
  const code = figure.querySelector('code');
  const button = figure.querySelector('.copy');
  code.textContent = code.textContent.replaceAll('127.0.0.1', hostname).replaceAll('6001', port || '80');
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
    setTimeout(() => (button.textContent = 'Copy'), 1500);
  });
}

/** Milliseconds, on the clock that all pages of a machine share, finer than Date.now(). */
function now() {
  return performance.timeOrigin + performance.now();
}

function nameOf(id) {
  return channel.members.get(id)?.info?.name ?? id;
}

/** The same colour for the same person, in every tab. */
function hueOf(id) {
  return [...id].reduce((hash, letter) => (hash * 31 + letter.codePointAt(0)) % 360, 7);
}

function textOf(data) {
  return typeof data === 'string' ? data : (data?.text ?? JSON.stringify(data));
}

function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function randomName() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  const manner = pick(['Brisk', 'Calm', 'Clever', 'Gentle', 'Jolly', 'Keen', 'Lucky', 'Mellow', 'Noble', 'Quiet', 'Swift', 'Witty']);
  const being = pick(['Badger', 'Crane', 'Falcon', 'Finch', 'Fox', 'Heron', 'Lynx', 'Marten', 'Otter', 'Raven', 'Seal', 'Wren']);
  return `${manner} ${being}`;
}
