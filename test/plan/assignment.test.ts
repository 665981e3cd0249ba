import { describe, expect, test } from 'vitest'
import {
  canonicalSetting,
  exportedSettings,
  settingAssignment,
  settingChanges,
  storedSettings,
  wantedSettings,
} from '../../scripts/plan/assignment.ts'
import type { SettingValue } from '../../scripts/host/schema.ts'

describe('settingAssignment', () => {
  test.each<[string, SettingValue, string]>([
    ['work_mem', '64MB', `"work_mem" to '64MB'`],
    ['search_path', ['app', 'public'], `"search_path" to 'app', 'public'`],
    ['search_path', 'app, public', `"search_path" to 'app', 'public'`],
    ['search_path', ['app, public'], `"search_path" to 'app, public'`],
    ['search_path', 'App, "App", "a""b"', `"search_path" to 'app', 'App', 'a"b'`],
    ['search_path', '"$user", public', `"search_path" to '$user', 'public'`],
    ['search_path', 'Ünï', `"search_path" to 'Ünï'`],
    ['search_path', [], `"search_path" to ''`],
    ['search_path', '', `"search_path" to ''`],
    ['search_path', 'a,', `"search_path" to 'a,'`],
    ['search_path', '"a', `"search_path" to '"a'`],
    ['session_preload_libraries', 'Auto_Explain', `"session_preload_libraries" to 'Auto_Explain'`],
    ['DateStyle', ['ISO', 'DMY'], `"DateStyle" to 'ISO', 'DMY'`],
    ['DateStyle', 'ISO, DMY', `"DateStyle" to 'ISO, DMY'`],
    ['app.tenant', `it's; drop`, `"app"."tenant" to 'it''s; drop'`],
    ['app.path', 'C:\\x', `"app"."path" to E'C:\\\\x'`],
  ])('%s = %j: a list is quoted element by element: %s', (name, value, text) => {
    expect(settingAssignment(name, value)).toBe(text)
  })
})

describe('canonicalSetting', () => {
  test.each<[string, SettingValue, SettingValue]>([
    ['search_path', ['app', 'public'], 'app, public'],
    ['search_path', ['app', 'public'], ' app ,"public"'],
    ['search_path', ['select'], '"select"'],
    ['search_path', [], '""'],
    ['DateStyle', ['ISO', 'DMY'], 'ISO, DMY'],
  ])('%s: %j and %j: are equal', (name, one, other) => {
    expect(canonicalSetting(name, one)).toBe(canonicalSetting(name, other))
  })

  test('a schema with a comma in its name: is not two schemas', () => {
    expect(canonicalSetting('search_path', ['a, b'])).not.toBe(canonicalSetting('search_path', ['a', 'b']))
  })
})

describe('settingChanges', () => {
  const stored = storedSettings(['TimeZone=UTC', 'search_path=app, "Odd ""x"', 'work_mem=4MB', 'app.x=a=b'])

  test('stored settings: come back as the words of a host file', () => {
    expect(exportedSettings(stored)).toEqual({
      'app.x': 'a=b',
      search_path: ['app', 'Odd "x'],
      timezone: 'UTC',
      work_mem: '4MB',
    })
    expect(settingChanges(wantedSettings(exportedSettings(stored)), stored, true)).toEqual([])
  })

  test('a name in another case: is the same setting', () => {
    expect(settingChanges(wantedSettings({ timezone: 'UTC' }), stored, false)).toEqual([])
  })

  test('a value that differs: is set, others are kept', () => {
    expect(settingChanges(wantedSettings({ work_mem: '8MB' }), stored, false)).toEqual([
      { clause: `set "work_mem" to '8MB'`, line: 'set work_mem = 4MB -> 8MB' },
    ])
  })

  test('exact: what is not named is reset', () => {
    const changes = settingChanges(wantedSettings({ work_mem: '4MB', jit: 'off' }), stored, true)
    expect(changes.map((change) => change.clause)).toEqual([
      `set "jit" to 'off'`,
      'reset "app"."x"',
      'reset "search_path"',
      'reset "timezone"',
    ])
  })
})
