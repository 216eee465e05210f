-- How the scripts that write change a queue. Each begins by doing what is due, and ends with `done`, whatever it answers.

local ready_before, next_before = redis.call('ZCARD', READY), next_end()
local tallies, last_number = {}, nil

local function tally(field, n)
  tallies[field] = (tallies[field] or 0) + n
end

-- A number that was never given before, not even by a server whose last writes were lost: of places and of leases.
local function number()
  last_number = last_number or tonumber(redis.call('HGET', META, 'number') or '0')
  last_number = math.max(last_number + 1, time[1] * 1000000 + time[2])
  return last_number
end

local function state_member(row)
  return row.state .. text(row.since) .. row.id
end

local function ready_member(row)
  return string.format('%03d', 255 - row.priority) .. text(row.place) .. row.id
end

local function order_member(row)
  return redis.sha1hex(row.key) .. ' ' .. text(row.place) .. row.id
end

-- The first active job of a key may be claimed, once it waits. `known` is a row that need not be read.
local function offer(key, known)
  local from, to = of_key(key)
  local first = redis.call('ZRANGEBYLEX', ORDER, from, to, 'LIMIT', 0, 1)[1]
  if not first then return end
  local id = first:sub(-16)
  local row = known and known.id == id and known or read(id)
  if row.state == 'w' then redis.call('ZADD', READY, 0, ready_member(row)) end
end

-- Takes a job out of all indexes.
local function unindex(row)
  redis.call('ZREM', STATES, state_member(row))
  if row.ends > 0 then redis.call('ZREM', ENDS, row.id) end
  if row.state == 'w' then redis.call('ZREM', READY, ready_member(row)) end
  if row.key and ACTIVE[row.state] then redis.call('ZREM', ORDER, order_member(row)) end
  if row.state ~= 'f' then tally('bytes', -row.bytes) end
end

-- Puts it into all indexes, and writes it.
local function index(row)
  redis.call('ZADD', STATES, 0, state_member(row))
  if row.ends > 0 then redis.call('ZADD', ENDS, string.format('%.0f', row.ends), row.id) end
  if row.key and ACTIVE[row.state] then redis.call('ZADD', ORDER, 0, order_member(row)) end
  if row.state ~= 'f' then tally('bytes', row.bytes) end
  local values = {}
  for i, field in ipairs(FIELDS) do
    values[i] = row[field]
  end
  redis.call('HSET', ROWS, row.id, cmsgpack.pack(values))
  if row.key then
    offer(row.key, row)
  elseif row.state == 'w' then
    redis.call('ZADD', READY, 0, ready_member(row))
  end
end

-- From one state into another, which ends by itself at `ends` (0: it does not). What becomes active again queues anew.
local function enter(row, state, ends, since)
  unindex(row)
  if ACTIVE[state] and not ACTIVE[row.state] then row.place = number() end
  row.state, row.ends, row.since = state, ends, since
  index(row)
end

local function wait_from(row, from, since)
  if from > since then
    enter(row, 'd', from, since)
  else
    enter(row, 'w', 0, since)
  end
end

local function stall(row, since)
  tally('stalled', 1)
  enter(row, 's', 0, since)
end

-- The attempt is over. attempts_max of 0 is no limit.
local function fail(row, retry_at, since)
  tally('failed', 1)
  if attempts_max > 0 and row.attempt >= attempts_max then
    tally('exhausted', 1)
    return stall(row, since)
  end
  row.attempt = row.attempt + 1
  wait_from(row, retry_at, since)
end

-- A delay or a lease ends at its time, whenever somebody looks. A lease that ends was an attempt.
local function time_is_up(row)
  if row.state == 'd' then return enter(row, 'w', 0, row.ends) end
  row.reason = 'the lease ran out'
  fail(row, row.ends, row.ends)
end

-- A job, after what was due with it.
local function current(id)
  local row = read(id)
  if row and row.ends > 0 and row.ends <= now then time_is_up(row) end
  return row
end

local function forget(row)
  unindex(row)
  redis.call('HDEL', ROWS, row.id)
  redis.call('HDEL', DATA, row.id)
  if row.name then redis.call('HDEL', NAMES, row.name) end
  if row.key then offer(row.key) end
end

-- Writes what was tallied and tells the news, if there are any: that a queue without a job to claim has one now, or that one comes
-- sooner than it was known. Whoever waits has found none before.
local function done(answer, told)
  for field, n in pairs(tallies) do
    if n ~= 0 then redis.call('HINCRBY', META, field, string.format('%.0f', n)) end
  end
  if last_number then redis.call('HSET', META, 'number', text(last_number)) end
  local next_now = next_end()
  local sooner = told == 'sooner' and next_now and (not next_before or next_now < next_before)
  local more = ready_before == 0 and redis.call('ZCARD', READY) > 0
  if sooner or more or told == 'always' then redis.call('SPUBLISH', NEWS, '') end
  return answer
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', string.format('%.0f', now), 'LIMIT', 0, SLICE)) do
  time_is_up(read(id))
end
