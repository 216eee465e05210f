#!lua
-- Keeps a revocation until it ends, and tells all nodes. KEYS[3]: zset of journal lines by their end in seconds; KEYS[4]: the
-- channel. ARGV: generation, how many there may be, how to publish, then end and line, one after another. Answers whether
-- there was room.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED generation')
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. redis.call('TIME')[1])
for i = 4, #ARGV, 2 do
  if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[2]) then
    return 0
  end
  redis.call('ZADD', KEYS[3], ARGV[i], ARGV[i + 1])
  redis.call(ARGV[3], KEYS[4], ARGV[i + 1])
end
return 1
