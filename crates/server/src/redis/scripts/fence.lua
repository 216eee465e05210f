#!lua flags=allow-oom
-- Answers the unit's generation. A process that has not served this unit before, or was promoted since, may lack what another
-- one answered for: the generation rises, and whoever still has the old one is refused.
-- It rises also when the caller had answers from another process after somebody else had called this one: for a moment there
-- were two primaries, and what the other one answered for is not here.
-- KEYS: fence. ARGV: 1 'open' if the unit was given to this server, which may have had it before; 2 the process that the
--   caller had answers from ('': none), 3 when it had the last, in microseconds.
-- Answers the generation, and the process.
local fence = redis.call('HMGET', KEYS[1], 'generation', 'identity', 'moved')
if fence[3] then
  if ARGV[1] ~= 'open' then
    return redis.error_reply('GONE its channels were given to another server, by a newer list of servers than this node has')
  end
  redis.call('HDEL', KEYS[1], 'moved', 'identity')
  fence[2] = false
end
local function said(section, field)
  return string.match(redis.call('INFO', section), field .. ':(%w+)')
end
local identity = said('server', 'run_id') .. ':' .. said('replication', 'master_replid')
local torn = ARGV[2] ~= '' and ARGV[2] ~= identity and fence[1] and tonumber(ARGV[3]) > tonumber(fence[1])
if fence[1] and fence[2] == identity and not torn then
  return { fence[1], identity }
end
local time = redis.call('TIME')
local generation = math.max((tonumber(fence[1]) or 0) + 1, time[1] * 1000000 + time[2])
generation = string.format('%.0f', generation)
redis.call('HSET', KEYS[1], 'generation', generation, 'identity', identity)
return { generation, identity }
