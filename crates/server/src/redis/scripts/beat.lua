-- ARGV from 4: the lease in ms, how many entries of dead nodes to take out, and the mode:
--   begin   the node is there from now on
--   beat    it still is; answers nothing where that is news
--   retire  it is there no longer than the lease
-- Answers whether there is more to take out, and what changed: {'l', channel, version, user}, {'c', channel, subscribers},
-- {'f', app/user}; and the generation.

local lease_ms, budget, mode = ARGV[4], tonumber(ARGV[5]), ARGV[6]

-- A server that heard nobody for half a lease, since it or all of its world stood still, or whose clock was set, cannot say
-- that anybody in particular is dead: whoever was alive when it last heard of anyone gets another lease.
local heard_ms = tonumber(redis.call('GET', key('heard')) or now_ms)
redis.call('SET', key('heard'), now_ms)
if math.abs(now_ms - heard_ms) > lease_ms / 2 then
  for _, known in ipairs(redis.call('ZRANGE', key('leases'), '(' .. math.min(heard_ms, now_ms), '+inf', 'BYSCORE')) do
    redis.call('ZADD', key('leases'), now_ms + lease_ms, known)
  end
end

local lease = redis.call('ZSCORE', key('leases'), node)
if mode == 'beat' and not (lease and tonumber(lease) > now_ms) then
  return false
end
redis.call('ZADD', key('leases'), now_ms + lease_ms, node)

local changes, more = {}, 0
for _, dead in ipairs(redis.call('ZRANGE', key('leases'), '-inf', now_ms, 'BYSCORE')) do
  local entries = budget > 0 and redis.call('SPOP', key('e:' .. dead), budget) or {}
  budget = budget - #entries
  for _, entry in ipairs(entries) do
    local kind = entry:sub(1, 1)
    if kind == 'c' then
      local channel = entry:sub(2)
      local _, left = count(channel, '0', dead)
      changes[#changes + 1] = {'c', channel, left}
    else
      local socket, name = entry:match('^.(%S+) (.*)$')
      if kind == 'm' then
        local user = leave(name, socket, dead)
        if user then
          changes[#changes + 1] = {'l', name, version_of(name), user}
        end
      elseif offline(name, socket, dead) == 1 then
        changes[#changes + 1] = {'f', name}
      end
    end
  end
  if redis.call('EXISTS', key('e:' .. dead)) == 0 then
    redis.call('ZREM', key('leases'), dead)
  else
    more = 1
  end
end
return {more, changes, tonumber(ARGV[1])}
