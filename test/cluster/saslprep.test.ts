import { expect, test } from 'vitest'
import { saslprep } from '../../scripts/cluster/saslprep.ts'

// RFC 4013, section 3, and what PostgreSQL makes of the rows that the RFC refuses.
test.each([
  ['plain text: stays', 'user', 'user'],
  ['case: stays', 'USER', 'USER'],
  ['ASCII control characters alone: stay, since plain ASCII is not looked at', '\u0007a\t', '\u0007a\t'],
  ['quotes and backslashes: stay', `a'b"c\\d`, `a'b"c\\d`],
  ['soft hyphen: mapped to nothing', 'I\u00adX', 'IX'],
  ['zero width joiner: mapped to nothing', 'é\u200dX', 'éX'],
  ['ordinal indicator: normalised', '\u00aa', 'a'],
  ['Roman numeral: normalised', '\u2168', 'IX'],
  ['ligature: normalised', 'ﬁx', 'fix'],
  ['combining accent: composed', 'e\u0301', '\u00e9'],
  ['sharp s: stays', 'Straße', 'Straße'],
  ['no-break space: a space', 'a\u00a0b', 'a b'],
  ['zero width space: a space, although the RFC also maps it to nothing', 'a\u200bb', 'a b'],
  ['control character beside a letter with an accent: refused, unprepared', 'ﬁ\u0007', 'ﬁ\u0007'],
  ['right-to-left letter and a digit at the end: refused, unprepared', 'ﬁ\u0627\u0031', 'ﬁ\u0627\u0031'],
  ['right-to-left letters around a digit: prepared', '\u0627\u00b2\u0628', '\u06272\u0628'],
  ['right-to-left letters around a Latin one: refused, unprepared', '\u0627ﬁ\u0628', '\u0627ﬁ\u0628'],
  ['emoji of after Unicode 3.2: refused, unprepared', 'ﬁ😀', 'ﬁ😀'],
  ['private use: refused, unprepared', 'ﬁ\ue000', 'ﬁ\ue000'],
  ['nothing left after mapping: unprepared', '\u00ad\u200d', '\u00ad\u200d'],
  ['half a surrogate pair: refused, unprepared', 'ﬁ\ud800', 'ﬁ\ud800'],
])('saslprep: %s', (_, password, expected) => {
  expect(saslprep(password)).toBe(expected)
})
