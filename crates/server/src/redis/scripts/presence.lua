-- What the presence scripts have in common. Keys of a unit, after its prefix:
--   leases       zset: a node -> until when its lease holds, in ms
--   heard        when a node last beat, in ms
--   e:NODE       set of what the node has entered: "mSOCKET CHANNEL", "cCHANNEL", "uSOCKET APP/USER"
--   p:CHANNEL    hash: "sSOCKET" -> "NODE USER", "uUSER" -> "SOCKETS INFO"
--   o:CHANNEL    zset: user -> the version at which it joined
--   v:CHANNEL    the version; outlives the last member, so that it goes on from there
--   n:CHANNEL    hash: node -> its subscribers
--   a:APP        zset of the names of occupied channels
--   w:APP/USER   hash: a socket that signed in -> its node
-- CHANNEL is APP/NAME. A node is an incarnation in a generation: where a server may have lost something, or have something back
-- that was taken out, each node begins anew, takes over what it still has, and the rest ends with the lease of before.
-- ARGV: generation, prefix, the node's incarnation, then as the script says.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED generation')
end

local node = ARGV[3] .. ':' .. ARGV[1]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function key(rest)
  return ARGV[2] .. rest
end

-- A node whose lease is not known may be known at once as one whose lease has ended: either it beats soon, and enters all
-- that it has again, or what it enters now is taken out.
local function entering()
  redis.call('ZADD', key('leases'), 'NX', now_ms, node)
end

local function stamp()
  local last = tonumber(redis.call('GET', KEYS[2]) or '0')
  local next = math.max(last + 1, time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[2], string.format('%.0f', next))
  return next
end

local function next_version(channel)
  local version = redis.call('GET', key('v:' .. channel))
  version = version and tonumber(version) + 1 or stamp()
  redis.call('SET', key('v:' .. channel), string.format('%.0f', version))
  return version
end

local function version_of(channel)
  return tonumber(redis.call('GET', key('v:' .. channel)) or '0')
end

-- Returns whether it is the user's first socket; nothing where the channel is full.
local function join(channel, socket, user, info, members_max)
  local people, entry = key('p:' .. channel), 'm' .. socket .. ' ' .. channel
  local held = redis.call('HGET', people, 's' .. socket)
  if held then
    local owner, name = held:match('^(%S+) (.*)$')
    if owner ~= node then
      entering()
      redis.call('SREM', key('e:' .. owner), entry)
      redis.call('SADD', key('e:' .. node), entry)
      redis.call('HSET', people, 's' .. socket, node .. ' ' .. name)
    end
    return 0
  end
  local known = redis.call('HGET', people, 'u' .. user)
  if not known and redis.call('ZCARD', key('o:' .. channel)) >= tonumber(members_max) then
    return nil
  end
  entering()
  redis.call('SADD', key('e:' .. node), entry)
  redis.call('HSET', people, 's' .. socket, node .. ' ' .. user)
  if known then
    local n, rest = known:match('^(%d+) (.*)$')
    redis.call('HSET', people, 'u' .. user, (n + 1) .. ' ' .. rest)
    return 0
  end
  redis.call('HSET', people, 'u' .. user, '1 ' .. info)
  redis.call('ZADD', key('o:' .. channel), string.format('%.0f', next_version(channel)), user)
  return 1
end

-- Returns the user, if it was the last socket and still this owner's.
local function leave(channel, socket, by)
  local people = key('p:' .. channel)
  local held = redis.call('HGET', people, 's' .. socket)
  if not held then
    return nil
  end
  local owner, user = held:match('^(%S+) (.*)$')
  if owner ~= by then
    return nil
  end
  redis.call('HDEL', people, 's' .. socket)
  redis.call('SREM', key('e:' .. by), 'm' .. socket .. ' ' .. channel)
  local n, rest = redis.call('HGET', people, 'u' .. user):match('^(%d+) (.*)$')
  if tonumber(n) > 1 then
    redis.call('HSET', people, 'u' .. user, (n - 1) .. ' ' .. rest)
    return nil
  end
  redis.call('HDEL', people, 'u' .. user)
  redis.call('ZREM', key('o:' .. channel), user)
  next_version(channel)
  if redis.call('EXISTS', people) == 0 then
    redis.call('PEXPIRE', key('v:' .. channel), 3600000)
  end
  return user
end

local function total(channel)
  local sum = 0
  for _, n in ipairs(redis.call('HVALS', key('n:' .. channel))) do
    sum = sum + n
  end
  return sum
end

-- Returns whether that is news, and all nodes' subscribers.
local function count(channel, n, of)
  local before = redis.call('HGET', key('n:' .. channel), of) or '0'
  local app, name = channel:match('^([^/]*)/(.*)$')
  if n == '0' then
    redis.call('HDEL', key('n:' .. channel), of)
    redis.call('SREM', key('e:' .. of), 'c' .. channel)
  else
    entering()
    redis.call('HSET', key('n:' .. channel), of, n)
    redis.call('SADD', key('e:' .. of), 'c' .. channel)
  end
  local sum = total(channel)
  if sum > 0 then
    redis.call('ZADD', key('a:' .. app), 0, name)
  else
    redis.call('ZREM', key('a:' .. app), name)
  end
  return before ~= n and 1 or 0, sum
end

-- Returns whether the user was offline.
local function online(user, socket)
  local sockets, entry = key('w:' .. user), 'u' .. socket .. ' ' .. user
  local was_offline = redis.call('HLEN', sockets) == 0
  local owner = redis.call('HGET', sockets, socket)
  if owner and owner ~= node then
    redis.call('SREM', key('e:' .. owner), entry)
  end
  entering()
  redis.call('HSET', sockets, socket, node)
  redis.call('SADD', key('e:' .. node), entry)
  return was_offline and 1 or 0
end

-- Returns whether the user is offline now and was not before.
local function offline(user, socket, by)
  local sockets = key('w:' .. user)
  if redis.call('HGET', sockets, socket) ~= by then
    return 0
  end
  redis.call('HDEL', sockets, socket)
  redis.call('SREM', key('e:' .. by), 'u' .. socket .. ' ' .. user)
  return redis.call('EXISTS', sockets) == 0 and 1 or 0
end

-- Users and what is said of them, one after another, in order of joining.
local function roster(channel)
  local users, out = redis.call('ZRANGE', key('o:' .. channel), 0, -1), {}
  for from = 1, #users, 500 do
    local fields = {}
    for i = from, math.min(from + 499, #users) do
      fields[#fields + 1] = 'u' .. users[i]
    end
    for i, entry in ipairs(redis.call('HMGET', key('p:' .. channel), unpack(fields))) do
      out[#out + 1] = users[from + i - 1]
      out[#out + 1] = entry:match('^%d+ (.*)$')
    end
  end
  return out
end
