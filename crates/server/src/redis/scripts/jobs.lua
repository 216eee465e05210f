-- What the scripts of a queue have in common. Its keys:
--   meta     hash: numbers, totals, `bytes` of data of jobs that are not finished, and the `generation` that put last
--   rows     hash: a job's number -> all that is known of it but its data, packed
--   data     hash: a job's number -> its data
--   states   zset of STATE SINCE NUMBER, by which jobs are listed and counted
--   ends     zset: numbers of jobs that are delayed or claimed, by when that ends
--   ready    zset of PRIORITY PLACE NUMBER: jobs that may be claimed, the first first
--   order    zset of the digest of a key, PLACE NUMBER: the active jobs of each key, the first first
--   names    hash: an idempotency key -> the number of its job
--   news     channel on which is told that a job may have become one that can be claimed
-- What zsets are ordered by is in their members, as text of equal length; only `ends` has scores. A state is the first letter of
-- its name: waiting, delayed, claimed, finished, stalled.
-- ARGV: generation, the time in ms ('': this server's), attempts_max, then as the script says.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED generation')
end

local META, ROWS, DATA, STATES, ENDS, READY, ORDER, NAMES, NEWS = unpack(KEYS, 3, 11)
local ACTIVE = { w = true, d = true, c = true }
-- What is due, or old, is done in slices of so many jobs: a millisecond or two.
local SLICE = 250
local FIELDS = {
  'state', 'since', 'ends', 'lease', 'place', 'priority', 'attempt', 'put', 'from', 'bytes',
  'kind', 'key', 'name', 'owner', 'progress', 'reason', 'result',
}

local time = redis.call('TIME')
local now = tonumber(ARGV[2]) or time[1] * 1000 + math.floor(time[2] / 1000)
local attempts_max = tonumber(ARGV[3])

local function text(n)
  return string.format('%016.0f', n)
end

-- An argument that may be missing comes with a sign before it.
local function optional(arg)
  return arg ~= '' and arg:sub(2)
end

local function read(id)
  local packed = redis.call('HGET', ROWS, id)
  if not packed then return nil end
  local row, values = { id = id }, cmsgpack.unpack(packed)
  for i, field in ipairs(FIELDS) do
    row[field] = values[i]
  end
  return row
end

local function next_end()
  local first = redis.call('ZRANGE', ENDS, 0, 0, 'WITHSCORES')
  return tonumber(first[2]) or false
end

local function counted(from, to)
  return redis.call('ZLEXCOUNT', STATES, '[' .. from, '(' .. to)
end

-- The lexical range of the active jobs of a key.
local function of_key(key)
  local digest = redis.sha1hex(key)
  return '[' .. digest .. ' ', '(' .. digest .. '!'
end

-- A job as the caller takes it in.
local function described(row)
  return {
    tonumber(row.id), row.state, row.since, row.ends, row.lease, row.attempt, row.put, row.from, row.priority,
    row.kind, row.key, row.name, row.owner, row.progress, row.reason, row.result,
    redis.call('HGET', DATA, row.id) or '',
  }
end
