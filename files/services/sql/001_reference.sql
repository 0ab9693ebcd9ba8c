-- Tables of the reference services, in the database that the connection has selected. MariaDB 10.11, MySQL 8.
-- Idempotent: may be run again. Application accounts need SELECT, INSERT, UPDATE on these tables and nothing else.

CREATE TABLE IF NOT EXISTS Submissions (
    submission_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    problem       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    language      VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    contest       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    source        MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    time          TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (submission_id)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS Runs (
    run_id        BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    submission_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    status        ENUM('new', 'running', 'ready') NOT NULL DEFAULT 'new',
    verdict       VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NULL,
    score         DOUBLE NULL,
    time_ms       INT UNSIGNED NULL,
    memory_bytes  BIGINT UNSIGNED NULL,
    runner        VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    attempts      INT UNSIGNED NOT NULL DEFAULT 0,
    time          TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (run_id),
    UNIQUE KEY one_run_per_submission (submission_id),
    KEY unfinished (status, run_id),
    CONSTRAINT runs_submission FOREIGN KEY (submission_id) REFERENCES Submissions (submission_id)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS Certificates (
    certificate_id    BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    contest_id        BIGINT NOT NULL,
    username          VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    certificate_type  ENUM('contest') NOT NULL DEFAULT 'contest',
    place             INT UNSIGNED NULL COMMENT 'only for places up to the cutoff',
    verification_code CHAR(10) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    message_time      BIGINT NOT NULL COMMENT 'timestamp of the message that set place (Unix seconds)',
    time              TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (certificate_id),
    UNIQUE KEY one_certificate_per_person (contest_id, username),
    UNIQUE KEY verification_code (verification_code)
) ENGINE = InnoDB;
