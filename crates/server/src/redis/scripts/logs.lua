-- What the scripts of a log have in common. Its keys:
--   meta     hash: `epoch`, the number of the `next` entry, `bytes` of all; the last chunk, which takes more entries: its `first` number,
--            when its `oldest` and `newest` entries came, and how much is `held` in it (0: there is none); the `generation` that
--            appended last, and the `home` it was at
--   chunks   list: of each other chunk the first and the last number, when its newest entry came, and its bytes, packed
--   entries  stream: NUMBER-0, with time and data
--   marks    hash: a reader -> the last number that it has done with
--   seats    hash: a reader -> the number of who reads
--   names    what the keys of names begin with: each is there for as long as its name is known
--   news     channel on which is told how far the log has come, and that a mark or a seat was changed
-- Entries are counted in chunks, and forgotten by the chunk.
-- ARGV: generation, the time in ms ('': this server's), then as the script says.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED generation')
end

local META, CHUNKS, ENTRIES, MARKS, SEATS, NAMES, NEWS = unpack(KEYS, 3, 9)
local FIELDS = { 'next', 'bytes', 'first', 'oldest', 'newest', 'held' }

local function text(n)
  return string.format('%.0f', n)
end

-- nil if there is none.
local function read_log()
  local values = redis.call('HMGET', META, 'epoch', 'generation', 'home', unpack(FIELDS))
  if not values[1] then return nil end
  local log = { epoch = values[1], generation = values[2], home = values[3] }
  for i, field in ipairs(FIELDS) do
    log[field] = tonumber(values[3 + i])
  end
  return log
end

-- The oldest of the chunks that have ended: its first and last number, when its newest entry came, its bytes.
local function oldest_chunk()
  local packed = redis.call('LINDEX', CHUNKS, 0)
  return packed and cmsgpack.unpack(packed)
end

local function first_number(log)
  local chunk = oldest_chunk()
  return chunk and chunk[1] or log.held > 0 and log.first or log.next
end
