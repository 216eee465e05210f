#!lua flags=no-writes,allow-oom
-- Journal lines of revocations, those that end last first. KEYS[3]: as in revoke.lua. ARGV: generation, first, last.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED generation')
end
return redis.call('ZRANGE', KEYS[3], ARGV[2], ARGV[3], 'REV')
