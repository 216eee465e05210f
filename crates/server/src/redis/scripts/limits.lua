-- Shares of apps' limits. Keys of a unit: g:APP, hash: node -> "GRANTED USED" connections; z:APP, for a moment the node that
-- lacks what others do not use; r:APP, hash: the bucket's debt in thousandths of a token, and when that was.
-- ARGV: generation, prefix, node, channel of scarcity, how to publish, then acts of six each:
--   c   app, limit, used, wanted, -   -> {granted, nodes that share it}
--   t   app, rate per s, given back, taken, taken ahead if there is   -> {1, taken ahead} or {0, ms to wait}

local function connections(app, limit, used, wanted)
  local grants, others, others_used, nodes = key('g:' .. app), 0, 0, 1
  local held = redis.call('HGETALL', grants)
  for i = 1, #held, 2 do
    if held[i] ~= node then
      local is_before = held[i]:sub(1, #ARGV[3]) == ARGV[3]
      if not is_before and redis.call('ZSCORE', key('leases'), held[i]) then
        local granted, in_use = held[i + 1]:match('^(%d+) (%d+)$')
        others, others_used, nodes = others + granted, others_used + in_use, nodes + 1
      else
        redis.call('HDEL', grants, held[i])
      end
    end
  end
  local unused = math.max(0, limit - used - others_used)
  local room = math.ceil(unused / (2 * nodes))
  local lacking = redis.call('GET', key('z:' .. app))
  if lacking and lacking ~= node then
    room = math.floor(math.max(0, unused - 1) / nodes)
  end
  local granted = math.max(used, math.min(limit - others, used + wanted + room))
  local lacks = granted < used + wanted or (used > 0 and granted == used)
  if lacks and unused > 0 and redis.call('SET', key('z:' .. app), node, 'NX', 'PX', 300) then
    redis.call(ARGV[5], ARGV[4], app)
  end
  redis.call('HSET', grants, node, string.format('%d %d', granted, used))
  return {granted, nodes}
end

local function tokens(app, rate, back, n, ahead)
  local bucket = key('r:' .. app)
  local owed, seen = unpack(redis.call('HMGET', bucket, 'owed', 'seen'))
  owed = math.max(0, (tonumber(owed) or 0) - (now_ms - (tonumber(seen) or now_ms)) * rate - back * 1000)
  -- A full bucket lends what it lacks, as more than a second's worth could otherwise never be had.
  local missing = owed + n * 1000 - math.max(rate, n) * 1000
  local answer
  if missing > 0 then
    answer = {0, math.ceil(missing / rate)}
  else
    owed = owed + n * 1000
    local more = math.max(0, math.min(ahead, math.floor(rate - owed / 1000)))
    owed = owed + more * 1000
    answer = {1, more}
  end
  redis.call('HSET', bucket, 'owed', string.format('%.0f', owed), 'seen', string.format('%.0f', now_ms))
  redis.call('PEXPIRE', bucket, string.format('%.0f', math.ceil(owed / rate) + 1000))
  return answer
end

local answers = {}
for i = 6, #ARGV, 6 do
  local kind, app, limit = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local a, b, c = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  answers[#answers + 1] = kind == 'c' and connections(app, limit, a, b) or tokens(app, limit, a, b, c)
end
return answers
