-- Says where the streams of channels stand that a node is subscribed to, and keeps them from being forgotten.
--
-- ARGV: 3 the node's own channel, on which the present stamp is sent ('': it is not).
-- Answers the present stamp, then epoch, offset and stamp of each channel.

local answer = { 0 }
for at = 3, #KEYS do
  local meta = read(names_of(KEYS[at]), true)
  redis.call('PEXPIRE', KEYS[at], META_TTL_MS, 'GT')
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = meta.e, meta.o, meta.s
end
answer[1] = present()
-- In order with all messages of the unit: whoever gets it has got all that was stored up to this stamp.
if ARGV[3] ~= '' then redis.call('SPUBLISH', ARGV[3], '=' .. text(last)) end
return answer
