// The public face of fanfare.js.

/** From the one that costs least to the one that always gets through. */
export type Transport = 'ws' | 'sse' | 'stream' | 'longpoll' | 'poll';

/**
 * `idle`: there is no channel to hear. `waiting`: before the next attempt. `paused`: the machine is offline, or the page
 * hidden for `suspendHidden` seconds; it goes on by itself. `off`: the server's rollout leaves this visitor out, for the
 * `reason` that it gave; it is asked again by itself. `closed`: for good.
 */
export type State = 'idle' | 'connecting' | 'connected' | 'waiting' | 'paused' | 'off' | 'closed';

export interface Options {
  /** What to hear from the start. More with `subscribe`. */
  channels?: Iterable<string>;
  /**
   * Who is asking. A function is called whenever a token is needed: at first, before it expires, and once when it was
   * refused.
   */
  token?: string | (() => Promise<string>);
  /** What may be tried, the best first. All five, in the order of `Transport`, unless said otherwise. */
  transports?: Transport[];
  /** Where to go on from: the `cursor` that an earlier feed had. */
  since?: string;
  /**
   * How many of the latest messages to begin with: without a cursor, and after a gap, where those that were heard before are left
   * out.
   */
  backtrack?: number;
  /**
   * Whether the server's rollout is asked if there is to be a feed, and obeyed: before the first connection, and then as often
   * as the server says. `user` and `site` are what it counts visitors by; without them, an id that is kept in `storage`.
   * By itself, nothing is asked.
   */
  rollout?: boolean | { user?: string; site?: string };
  /** Seconds in which a server that lives says something. Silence of 2.5 times that is taken for a dead connection. */
  heartbeat?: number;
  /** Seconds that a transport has to show that it gets through. */
  openTimeout?: number;
  /** Seconds between two questions of the transport `poll`. */
  pollInterval?: number;
  /** Seconds after which a connection was no accident: when it ends, the next attempt follows soon. */
  stable?: number;
  /** Seconds after which a transport that did not get through is tried again; longer each time. */
  retryBlocked?: number;
  /** After how many seconds a hidden page lets its connection go; it resumes when it is shown. Never, by default. */
  suspendHidden?: number;
  /** Whether requests to another origin carry cookies. */
  credentials?: RequestCredentials;
  /** Where the transport that worked, and a visitor's id, are remembered; `localStorage` where there is one. */
  storage?: Pick<Storage, 'getItem' | 'setItem'>;
  /** Instead of the global ones. */
  WebSocket?: typeof WebSocket;
  fetch?: typeof fetch;
}

export interface Message {
  channel: string;
  event: string;
  /** As it was published; JSON is not parsed. */
  data: string;
  /** Where to resume after it. Absent from what is not stored, such as client events. */
  cursor?: string;
  /** The publisher's own name for it. */
  event_id?: string;
  /** Who is behind a client event. */
  user_id?: string;
  time_ms: number;
}

/** A presence change or a count: a message whose data is parsed. */
export type Notice<Data> = Omit<Message, 'data'> & { data: Data };

export interface Member {
  user_id: string;
  user_info?: unknown;
}

export interface Events {
  message: Message;
  /**
   * A channel is heard, from the beginning or again. `recovered`: whether everything missed since the cursor follows;
   * absent when there was none.
   */
  subscribed: { channel: string; recovered?: boolean; presence?: { count: number; ids: string[]; hash: Record<string, unknown> } };
  /** Messages of the channel may be missing here: the server could not give all that came since the cursor. */
  gap: { channel: string };
  state: { state: State; reason?: string };
  transport: { transport: Transport };
  /** With a channel: it was refused, and left out. Without: the feed is closed, as trying again would not help. */
  error: { channel?: string; status?: number; message: string };
  member_added: Notice<Member>;
  member_removed: Notice<Member>;
  subscription_count: Notice<{ subscription_count: number }>;
  /** What would have been another event, but is to stay dark. For comparing with what is shown instead. */
  dark: { [Name in ChannelEvent]: { event: Name; detail: Events[Name] } }[ChannelEvent];
}

/** Events that the rollout can keep dark. */
export type ChannelEvent =
  'message' | 'subscribed' | 'gap' | 'member_added' | 'member_removed' | 'subscription_count';

/** Some channels of a server, heard over one connection. */
export class Fanfare {
  /**
   * @param url where the server is, with its path prefix if it has one; in a page, relative to it
   * @param key the app's key
   */
  constructor(url: string | URL, key: string, options?: Options);

  readonly state: State;
  /** What messages come over; undefined unless connected. */
  readonly transport: Transport | undefined;
  /** Where to go on from: `since` of another feed. */
  readonly cursor: string | undefined;
  readonly channels: string[];
  /** How many of which events were kept dark since the feed is dark; undefined unless it is. */
  readonly dark: Readonly<Partial<Record<ChannelEvent, number>>> | undefined;

  /** Has `listener` called at each such event; returns a function that ends that. */
  on<Name extends keyof Events>(event: Name, listener: (detail: Events[Name]) => void): () => void;
  subscribe(...channels: string[]): void;
  unsubscribe(...channels: string[]): void;
  /** Ends it for good. */
  close(): void;
}
