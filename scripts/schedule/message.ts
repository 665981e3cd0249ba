import type { Due } from './due.ts'

/** What is told of one job or unit. */
export interface Story {
  readonly host: string
  /** Its name, or that of a unit that is no job. */
  readonly job: string
  readonly unit: string
  /** A trial shows that people are reached. */
  readonly state: Due['state'] | 'trial'
  readonly isReminder: boolean
  readonly since: string
  readonly reason: string
  /** ISO text; undefined when there was none. */
  readonly lastSuccess: string | undefined
  readonly next: string | undefined
  /** The last lines of the unit's journal. */
  readonly journal: readonly string[]
  /** How to look at it. */
  readonly command: string
}

const STATES: Readonly<Record<Story['state'], string>> = {
  failed: 'failed',
  stale: 'is overdue',
  recovered: 'is well again',
  trial: 'is a trial',
}

/** `[howdah db1] backup-nightly failed: timeout`. Pure. */
export function subjectOf({ host, job, state, reason, isReminder }: Story): string {
  const what = `[howdah ${host}] ${job} ${isReminder ? 'still ' : ''}${STATES[state]}`
  return oneLine(state === 'recovered' ? what : `${what}: ${reason}`)
}

/** All of it for people. Pure. */
export function textOf(story: Story): string {
  const { job, unit, state, since, reason, lastSuccess, next, journal, command } = story
  const lines = [
    `${job} on ${story.host} ${STATES[state]}: ${reason}`,
    '',
    `unit:          ${unit}`,
    ...(since === '' ? [] : [`since:         ${since}`]),
    `last success:  ${lastSuccess ?? 'none is known'}`,
    `next run:      ${next ?? 'none is known'}`,
    `look at it:    ${command}`,
  ]
  return [...lines, ...(journal.length === 0 ? [] : ['', `journal of ${unit}:`, ...journal]), ''].join('\n')
}

/** A mail, headers first, for sendmail(8) `-t`. Pure. */
export function mailOf(story: Story, to: string): string {
  const headers = [
    `To: ${oneLine(to)}`,
    `Subject: ${headerText(subjectOf(story))}`,
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=utf-8',
    'Content-Transfer-Encoding: 8bit',
    'Auto-Submitted: auto-generated', // nobody answers that he is on holiday (RFC 3834)
  ]
  return `${headers.join('\n')}\n\n${textOf(story)}`
}

/** What programs are told in their environment. Pure. */
export function environmentOf({ host, job, state, reason }: Story): Record<string, string> {
  return {
    HOWDAH_HOST: host,
    HOWDAH_JOB: job,
    HOWDAH_STATE: state,
    HOWDAH_REASON: reason.replaceAll('\0', ''),
  }
}

/** What a webhook is sent. Pure. */
export function documentOf(story: Story): string {
  const { host, job, state, reason, since, lastSuccess } = story
  return JSON.stringify({
    format: 1,
    host,
    job,
    state,
    reason,
    since,
    last_success: lastSuccess ?? null,
    text: subjectOf(story),
  })
}

/** A line break in a header would begin another one. */
function oneLine(text: string): string {
  return text.replaceAll(/\p{Cc}+/gu, ' ').trim()
}

/** Other letters than ASCII's are encoded in words of at most 75 characters (RFC 2047). */
function headerText(text: string): string {
  if (/^[\x20-\x7e]*$/.test(text)) return text
  const words: string[] = []
  let word = ''
  for (const letter of text) {
    if (Buffer.byteLength(word + letter) > WORD_BYTES) {
      words.push(word)
      word = ''
    }
    word += letter
  }
  return [...words, word].map((word) => `=?utf-8?B?${Buffer.from(word).toString('base64')}?=`).join('\n ')
}

const WORD_BYTES = 45
