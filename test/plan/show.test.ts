import { describe, expect, test } from 'vitest'
import { type Change, type Finding, HAZARDS, type Step } from '../../scripts/plan/change.ts'
import { showChange, showFinding, showPlan, showStep } from '../../scripts/plan/show.ts'
import { runCode } from '../support/code.ts'

const change = (more: Partial<Change> = {}): Change => ({
  kind: 'role',
  name: 'app',
  action: 'create',
  line: 'login',
  hazards: [],
  steps: [],
  ...more,
})

test.each<[string, Partial<Change>, string]>([
  ['to create', {}, '+ role app: login'],
  [
    'to change',
    { action: 'alter', line: 'connection limit 10 -> 20' },
    '~ role app: connection limit 10 -> 20',
  ],
  ['to drop', { action: 'drop', hazards: ['drops-role'] }, '- role app: login [drops-role]'],
  [
    'two hazards',
    { hazards: ['drops-role', 'deletes-data'] },
    '+ role app: login [drops-role, deletes-data]',
  ],
])('showChange: %s', (_, more, text) => {
  expect(showChange(change(more))).toBe(text)
})

test.each<[string, Partial<Finding>, string]>([
  ['a warning', {}, '! hba rule 2: lets everybody in'],
  ['with a hint', { hint: 'Use scram.' }, '! hba rule 2: lets everybody in\n    Use scram.'],
  ['impossible', { level: 'impossible' }, '! hba rule 2: impossible: lets everybody in'],
])('showFinding: %s', (_, more, text) => {
  expect(
    showFinding({ kind: 'hba', name: 'rule 2', level: 'warning', text: 'lets everybody in', ...more }),
  ).toBe(text)
})

test.each<[string, Step, string]>([
  ['a statement', { run: 'sql', database: 'db', text: 'select 1', transaction: true }, '    db: select 1'],
  [
    'one with a password: its place, never the password',
    {
      run: 'sql',
      database: 'db',
      text: 'alter role app password :verifier',
      transaction: true,
      secret: { role: 'app', ref: { file: '/x' } },
    },
    '    db: alter role app password :verifier',
  ],
  [
    'a file',
    { run: 'write', path: '/a', content: 'x', mode: 0o640, owner: 'postgres' },
    '    write /a (640, postgres)',
  ],
  [
    'a folder',
    { run: 'folder', path: '/a', mode: 0o700, owner: 'postgres' },
    '    folder /a (700, postgres)',
  ],
  [
    'a program',
    { run: 'exec', argv: ['rm', '-rf', '--', '/a b', "it's", '$x', ''] },
    `    rm -rf -- '/a b' 'it'\\''s' '$x' ''`,
  ],
  ['a program of another user', { run: 'exec', argv: ['initdb'], as: 'postgres' }, '    as postgres: initdb'],
  ['start', { run: 'start' }, '    start'],
  ['reload', { run: 'reload' }, '    reload'],
  ['restart', { run: 'restart' }, '    restart'],
])('showStep: %s', (_, step, text) => {
  expect(showStep(step)).toBe(text)
})

describe('showPlan', () => {
  const finding: Finding = { kind: 'hba', name: 'rule 2', level: 'warning', text: 'x' }
  const plan = (changes: readonly Change[], findings: readonly Finding[] = []) => ({
    changes,
    findings,
    digest: '',
  })

  test.each([
    ['nothing', plan([]), 'nothing to do'],
    ['a finding only', plan([], [finding]), '! hba rule 2: x\nnothing to do; 1 finding'],
    ['one change', plan([change()]), '+ role app: login\n1 to create, 0 to change, 0 to drop'],
    [
      'all sorts, and what it needs',
      plan(
        [
          change(),
          change({ action: 'alter', hazards: ['restarts-server'] }),
          change({ action: 'drop', hazards: ['drops-role'] }),
        ],
        [finding, finding],
      ),
      [
        '+ role app: login',
        '~ role app: login [restarts-server]',
        '- role app: login [drops-role]',
        '! hba rule 2: x',
        '! hba rule 2: x',
        '1 to create, 1 to change, 1 to drop; 2 findings',
        `needs --allow drops-role: ${HAZARDS['drops-role']}`,
        `needs --allow restarts-server: ${HAZARDS['restarts-server']}`,
      ].join('\n'),
    ],
  ])('%s', (_, planned, text) => {
    expect(showPlan(planned)).toBe(text)
  })

  test('with steps: each below its change', () => {
    const steps: Step[] = [{ run: 'reload' }, { run: 'start' }]
    expect(showPlan(plan([change({ steps })]), true)).toBe(
      '+ role app: login\n    reload\n    start\n1 to create, 0 to change, 0 to drop',
    )
  })

  test('names and statements with control characters: cannot write over the terminal', () => {
    const name = '"a\u001b[2J\u0007b"'
    const steps: Step[] = [{ run: 'sql', database: 'd', text: `create role ${name}`, transaction: true }]
    const text = showPlan(plan([change({ name, line: '\u001b]0;x\u0007', steps })]), true)
    expect(text).not.toMatch(/(?!\n)\p{Cc}/u)
    expect(text).toContain(String.raw`"a\u001b[2J\u0007b"`)
  })

  test('on a terminal in colours, elsewhere and with NO_COLOR without', async () => {
    const code = `
      import { showChange } from 'scripts/plan/show.ts'
      console.log(JSON.stringify(showChange({ kind: 'role', name: 'a', action: 'drop', line: 'x', hazards: [], steps: [] })))`
    expect((await runCode(code)).stdout).toBe('"- role a: x"\n')
    expect((await runCode(code, { env: { NO_COLOR: '', FORCE_COLOR: '1' } })).stdout).toContain(
      '\\u001b[31m-',
    )
  })
})
