-- What the workers leave behind beside the certificates. MariaDB 10.11, MySQL 8. Idempotent: may be run again.

CREATE TABLE IF NOT EXISTS Certificate_Files (
    certificate_id BIGINT UNSIGNED NOT NULL,
    pdf            MEDIUMBLOB NOT NULL,
    sha256         BINARY(32) NOT NULL,
    time           TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (certificate_id),
    CONSTRAINT certificate_files_certificate FOREIGN KEY (certificate_id) REFERENCES Certificates (certificate_id)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS Mails_Sent (
    event_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    recipient VARCHAR(254) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    time      TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (event_id)
) ENGINE = InnoDB COMMENT = 'a row: the relay has taken the mail of this event';

CREATE TABLE IF NOT EXISTS Analytics_Events (
    event_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    day      DATE NOT NULL,
    PRIMARY KEY (event_id),
    KEY day (day)
) ENGINE = InnoDB COMMENT = 'a row: this event is counted';

CREATE TABLE IF NOT EXISTS Analytics_Daily (
    day    DATE NOT NULL,
    type   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    events BIGINT UNSIGNED NOT NULL DEFAULT 0,
    PRIMARY KEY (day, type)
) ENGINE = InnoDB;
