import { describe, expect, test } from 'vitest'
import { mailOf, type Story } from '../../scripts/schedule/message.ts'

describe('mailOf', () => {
  const story: Story = {
    host: 'db1',
    job: 'nightly',
    unit: 'u',
    state: 'failed',
    isReminder: false,
    since: '2026-01-01T02:00:00.000Z',
    reason: 'a\r\nBcc: all@example.org',
    lastSuccess: undefined,
    next: undefined,
    journal: [],
    command: 'c',
  }

  test('line breaks in what a program said: make no header of their own', () => {
    const [headers] = mailOf(story, 'root').split('\n\n')
    expect(headers).toContain('Subject: [howdah db1] nightly failed: a Bcc: all@example.org\n')
    expect(headers).not.toMatch(/^Bcc/m)
  })

  test('letters beyond ASCII in a subject: are encoded in words that are short enough', () => {
    const [headers] = mailOf({ ...story, reason: 'grüße '.repeat(30) }, 'root').split('\n\n')
    const words = headers!.match(/=\?utf-8\?B\?[^?]+\?=/g)!
    expect(Math.max(...words.map((word) => word.length))).toBeLessThanOrEqual(75)
    const bytes = words.map((word) => Buffer.from(word.slice(10, -2), 'base64').toString())
    expect(bytes.join('')).toBe(`[howdah db1] nightly failed: ${'grüße '.repeat(30).trim()}`)
  })
})
