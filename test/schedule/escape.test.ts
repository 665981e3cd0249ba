import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Fail } from '../../scripts/core/fail.ts'
import { execArgument, execLine, pathWord, plainText, unitName } from '../../scripts/schedule/escape.ts'

// What systemd makes of all this is asked of a systemd that runs: test/journeys/units.test.ts.

/** Anything that a text can be, and often what is special to systemd. */
const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.string({
    unit: fc.constantFrom(...Array.from(`%$"'\\; \t\n\r\u0001\u007F\u0085\uFFFE@:+!-#{}aß€🐘`)),
    maxLength: 20,
  }),
)

describe('an argument', () => {
  test.each([
    ['--wait', '--wait'],
    ['1h', '1h'],
    ['/etc/howdah/host.toml', '/etc/howdah/host.toml'],
    ['', '""'],
    ['a b', '"a b"'],
    [';', '";"'],
    ['100%', '100%%'],
    ['%i', '%%i'],
    ['$HOME', '$$HOME'],
    ['${HOME}', '"$${HOME}"'],
    ['$$', '$$$$'],
    [`it's`, `"it's"`],
    ['say "no"', String.raw`"say \"no\""`],
    ['a\\', String.raw`"a\\"`],
    [String.raw`\x41`, String.raw`"\\x41"`],
    ['a\nExecStart=/bin/rm', String.raw`"a\x0aExecStart=/bin/rm"`],
    ['\r\t\u001B\u007F', String.raw`"\x0d\x09\x1b\x7f"`],
    ['\u0085', String.raw`"\xc2\x85"`],
    ['\uFFFE', String.raw`"\xef\xbf\xbe"`],
    ['größer 🐘', '"größer 🐘"'],
    ['-@:+!', '"-@:+!"'],
    ['#', '"#"'],
  ])('%j: is %s', (argument, word) => {
    expect(execArgument(argument)).toBe(word)
  })

  test.each([['a\0b'], ['\uD83D'], ['\uDC18a']])('%j: is refused, no program could get it', (argument) => {
    expect(() => execArgument(argument)).toThrow(`a unit of systemd cannot hold ${JSON.stringify(argument)}`)
  })

  test('whatever it is: it stays in its line, and nothing in it means something to systemd', () => {
    fc.assert(
      fc.property(text, (argument) => {
        fc.pre(!argument.includes('\0') && argument.isWellFormed())
        const word = execArgument(argument)
        expect(word).not.toMatch(/[\p{Cc}\p{Noncharacter_Code_Point}]/u)
        expect(word).toMatch(/^([^\s"'\\;]+|"([^"\\]|\\["\\]|\\x[0-9a-f]{2})*")$/)
        expect(word.replaceAll('%%', '')).not.toContain('%')
        expect(word.replaceAll('$$', '')).not.toContain('$')
        expect(readBack(word)).toBe(argument)
      }),
    )
  })
})

test('a line: nothing in the path of its program is a variable, but specifiers are', () => {
  expect(execLine(['/opt/a $b 100%/run', 'a b', '$c'])).toBe('"/opt/a $b 100%%/run" "a b" $$c')
})

test.each([['run'], ['/opt/"x"/run'], [String.raw`/opt/x\y`], ['/opt/x\ny'], ['@/bin/sh'], ['/opt/../run']])(
  'a program %j: is refused, systemd would pass over the line',
  (program) => {
    expect(() => execLine([program])).toThrow(/cannot name the path/)
  },
)

describe('a text for people', () => {
  test.each([
    ['backup nightly', 'backup nightly'],
    ['100% of %i', '100%% of %%i'],
    ['a\n[Service]\r\nUser=root', 'a [Service] User=root'],
    ['ends with \\', 'ends with \\ '],
    [`"it's" $HOME`, `"it's" $HOME`],
    ['half \uD83D', 'half \uFFFD'],
  ])('%j: is %j', (given, line) => {
    expect(plainText(given)).toBe(line)
  })

  test('whatever it is: one line, which takes no other one along', () => {
    fc.assert(
      fc.property(text, (given) => {
        const line = plainText(given)
        expect(line).not.toMatch(/[\p{Cc}\p{Noncharacter_Code_Point}]|\\$/u)
        expect(line.isWellFormed()).toBe(true)
        expect(line.replaceAll('%%', '')).not.toContain('%')
      }),
    )
  })
})

describe('a path', () => {
  test.each([
    ['', '/srv/a', '/srv/a'],
    ['-', '/srv/a b', '"-/srv/a b"'],
    ['-', '/srv/100%/$x', '-/srv/100%%/$x'],
    ['', '/srv/a\u00A0b', '"/srv/a\u00A0b"'],
    ['', '/srv/größer;', '"/srv/größer;"'],
  ])('%s%s: is %s', (prefix, path, word) => {
    expect(pathWord(prefix, path)).toBe(word)
  })

  test.each([
    [`/srv/it's`],
    ['/srv/"a"'],
    [String.raw`/srv/a\x20b`],
    ['/srv/a\nb'],
    ['/srv/a\u0085b'],
    ['/srv/\uFFFF'],
    ['/srv/../etc'],
    ['/srv/.'],
    ['srv'],
    [''],
  ])('%j: is refused, a list of paths cannot say it', (path) => {
    expect(() => pathWord('-', path)).toThrow(
      expect.objectContaining({ code: 'host-file', message: expect.stringContaining(JSON.stringify(path)) }),
    )
  })

  test('whatever it is: one word of one line, or it is refused', () => {
    fc.assert(
      fc.property(text, (name) => {
        const word = wordOrRefusal(`/${name}`)
        if (word instanceof Fail) return
        expect(word).toMatch(/^(-\/[^\s"'\\\p{Cc}]*|"-\/[^"'\\\p{Cc}]*")$/u)
        expect(word.replace(/^"(.*)"$/, '$1').replaceAll('%%', '%')).toBe(`-/${name}`)
      }),
    )
  })
})

describe('the name of a unit', () => {
  test.each([['howdah-backup-nightly.timer'], ['howdah-backup-A_b.c-1.service'], ['howdah-alert@.service']])(
    '%s: as it is',
    (name) => {
      expect(unitName(name)).toBe(name)
    },
  )

  test.each([
    ['howdah-a b.service'],
    ['howdah-a/b.service'],
    ['howdah-%i.service'],
    ['howdah-a@b.service'],
    ['howdah-ä.service'],
    ['howdah-a\n.service'],
    ['howdah-a.target'],
    ['.service'],
    [`${'a'.repeat(248)}.service`],
  ])('%j: is refused', (name) => {
    expect(() => unitName(name)).toThrow(/is no name of a unit/)
  })

  test('the longest one: leaves the room that is wanted', () => {
    const longest = `${'a'.repeat(247)}.service`
    expect(unitName(longest)).toBe(longest)
    expect(() => unitName(longest, 1)).toThrow('254 bytes at most')
  })
})

function wordOrRefusal(path: string): string | Fail {
  try {
    return pathWord('-', path)
  } catch (error) {
    if (error instanceof Fail && error.code === 'host-file') return error
    throw error
  }
}

/** What a word means, by systemd.service(5). */
function readBack(word: string): string {
  const inner = word.replace(/^"(.*)"$/s, '$1')
  const unescaped = inner.replaceAll(/(?:\\x[0-9a-f]{2})+|\\(["\\])/g, (escape, quote?: string) =>
    quote === undefined ? Buffer.from(escape.replaceAll(/\\x/g, ''), 'hex').toString() : quote,
  )
  return unescaped.replaceAll('%%', '%').replaceAll('$$', '$')
}
