#!lua
-- Enters what a node says of itself, and answers what all nodes have said lately: name, text, name, text, …
-- KEYS: fence, stamp, nodes. ARGV: generation, the node's name ('': only look), its text ('': it leaves), milliseconds it is good for
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] ~= '' then
  if ARGV[3] == '' then
    redis.call('HDEL', KEYS[3], ARGV[2])
  else
    redis.call('HSET', KEYS[3], ARGV[2], string.format('%.0f', now + ARGV[4]) .. ' ' .. ARGV[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[4])
  end
end
local said = redis.call('HGETALL', KEYS[3])
local lately = {}
for i = 1, #said, 2 do
  local until_ms, text = string.match(said[i + 1], '^(%d+) (.*)$')
  if tonumber(until_ms) > now then
    lately[#lately + 1] = said[i]
    lately[#lately + 1] = text
  else
    redis.call('HDEL', KEYS[3], said[i])
  end
end
return lately
