# Names

variable "name" {
  description = "Beginning of the names of everything that is made here."
  type        = string
  default     = "ibyok"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,23}$", var.name))
    error_message = "name must be 2 to 24 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "tags" {
  description = "Tags of everything that takes tags."
  type        = map(string)
  default     = {}
}

# Table

variable "table_name" {
  description = "Name of the table; the server's setting store.table."
  type        = string
  default     = "ibyok"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{3,255}$", var.table_name))
    error_message = "table_name must be 3 to 255 letters, digits, _, - and . as DynamoDB takes them."
  }
}

variable "deletion_protection" {
  description = "Whether DynamoDB refuses to delete the table. Off only to take a trial installation down."
  type        = bool
  default     = true
}

# Keys

variable "key_administrators" {
  description = "ARNs of the IAM principals that administer the KMS keys. They can't use the key of stored values, and must include whoever applies this module."
  type        = list(string)

  validation {
    condition     = length(var.key_administrators) > 0 && alltrue([for arn in var.key_administrators : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[^*]+$", arn))])
    error_message = "key_administrators must name at least one IAM role or user by its ARN, without wildcards."
  }
}

variable "multi_region" {
  description = "Whether the key of stored values is a multi-Region key, so that a server in another region can open what this one stored. It can't be changed later."
  type        = bool
  default     = false
}

variable "rotation_period_days" {
  description = "Days between rotations of the keys' material."
  type        = number
  default     = 365

  validation {
    condition     = var.rotation_period_days >= 90 && var.rotation_period_days <= 2560
    error_message = "rotation_period_days must be 90 to 2560, as KMS takes it."
  }
}

variable "key_deletion_days" {
  description = "Days that a key which is scheduled for deletion can still be saved."
  type        = number
  default     = 30

  validation {
    condition     = var.key_deletion_days >= 7 && var.key_deletion_days <= 30
    error_message = "key_deletion_days must be 7 to 30, as KMS takes it."
  }
}

variable "other_kms_keys" {
  description = "ARNs of further KMS keys that the server may use: organizations' own, and keys of recovery regions. Their key policies must allow it, too."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.other_kms_keys : can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", arn))])
    error_message = "other_kms_keys must be ARNs of keys, not of aliases, without wildcards."
  }
}

variable "recovery_regions" {
  description = "Other regions whose keys the server may call; its setting kms.recovery_regions."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for region in var.recovery_regions : can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", region))])
    error_message = "recovery_regions must be regions such as eu-west-1."
  }
}

# Who becomes which role

variable "kubernetes" {
  description = "The namespace and service accounts that become the roles on EKS. The server has one; `rewrap` is for a replica that only moves data keys, `table` for a job that makes or checks the table."
  type = object({
    namespace = optional(string, "ibyok")
    server    = optional(string, "ibyok")
    rewrap    = optional(string, "ibyok-rewrap")
    table     = optional(string, "ibyok-table")
  })
  default = {}

  validation {
    condition     = alltrue([for name in values(var.kubernetes) : can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", name))])
    error_message = "kubernetes must be names of one namespace and of service accounts, without wildcards."
  }
  validation {
    condition     = length(distinct([var.kubernetes.server, var.kubernetes.rewrap, var.kubernetes.table])) == 3
    error_message = "kubernetes.server, .rewrap and .table must be three service accounts: each has rights that the others lack."
  }
}

variable "irsa" {
  description = "IAM roles for service accounts: the cluster's OIDC provider, its ARN and its issuer without https://. null: not used."
  type = object({
    provider_arn = string
    issuer       = string
  })
  default = null

  validation {
    condition     = var.irsa == null || can(regex(":oidc-provider/", var.irsa.provider_arn)) && !can(regex("^https?://", var.irsa.issuer))
    error_message = "irsa.provider_arn must be the ARN of an OIDC provider, and irsa.issuer be without https://."
  }
}

variable "pod_identity_cluster" {
  description = "EKS Pod Identity: the cluster's name, for which associations are made. null: not used."
  type        = string
  default     = null

  validation {
    condition     = var.pod_identity_cluster == null || can(regex("^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$", var.pod_identity_cluster))
    error_message = "pod_identity_cluster must be the name of an EKS cluster."
  }
}

variable "server_services" {
  description = "AWS services that may hand the server's role to what they run, without EKS: ec2.amazonaws.com, ecs-tasks.amazonaws.com."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for service in var.server_services : contains(["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"], service)])
    error_message = "server_services can be ec2.amazonaws.com and ecs-tasks.amazonaws.com."
  }
}

variable "operators" {
  description = "ARNs of the IAM principals that may become the role for `ibyok-server table create|check`, and the rewrap role where there is one."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.operators : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[^*]+$", arn))])
    error_message = "operators must be ARNs of IAM roles or users, without wildcards."
  }
}

variable "rewrap_role" {
  description = "Whether there is a role for a server that may, beside all else, move data keys between KMS keys. Make it for the time of an `ibyok rewrap`."
  type        = bool
  default     = false
}

# Network

variable "network" {
  description = "A VPC that is there: its id, private subnets and their route tables, which serve the vault alone, for the policy of the endpoint of DynamoDB that they get lets nothing else through. null: a VPC is made, with private subnets alone."
  type = object({
    vpc_id          = string
    subnet_ids      = list(string)
    route_table_ids = list(string)
  })
  default = null

  validation {
    condition     = var.network == null || try(length(var.network.subnet_ids) > 0 && length(var.network.route_table_ids) > 0, false)
    error_message = "network must name at least one subnet and one route table."
  }
}

variable "vpc_cidr" {
  description = "Addresses of the VPC that is made; each subnet gets a sixteenth of them."
  type        = string
  default     = "10.64.0.0/20"

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 4, 15)) && try(tonumber(split("/", var.vpc_cidr)[1]) <= 24, false)
    error_message = "vpc_cidr must be an IPv4 range of /24 or larger."
  }
}

variable "availability_zones" {
  description = "Availability zones of the VPC that is made, one private subnet in each; needed without `network`."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.availability_zones) <= 6 && length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "availability_zones must be at most 6, each named once."
  }
}

variable "server_port" {
  description = "Port of the server's setting listen."
  type        = number
  default     = 7443

  validation {
    condition     = var.server_port >= 1 && var.server_port <= 65535 && floor(var.server_port) == var.server_port
    error_message = "server_port must be a port."
  }
}

variable "client_cidrs" {
  description = "IPv4 ranges that may connect to the server."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "client_cidrs must be IPv4 ranges, and not everybody."
  }
}

variable "client_security_groups" {
  description = "Security groups that may connect to the server."
  type        = list(string)
  default     = []
}

variable "endpoint_private_dns" {
  description = "Whether the names of KMS and STS lead to these endpoints in the whole VPC. Their policies let only the vault's calls through: off where others in the VPC call KMS too, and then kms.endpoint is to be set."
  type        = bool
  default     = true
}

# Trail

variable "trail" {
  description = "Whether a CloudTrail trail is made. Without it the alarms on events are not there either; a trail of the organization's serves the reconciliation as well."
  type        = bool
  default     = true
}

variable "trail_retention_days" {
  description = "Days that the trail's files are kept in S3."
  type        = number
  default     = 400

  validation {
    condition     = var.trail_retention_days >= 90
    error_message = "trail_retention_days must be at least 90."
  }
}

variable "trail_lock_days" {
  description = "Days that nobody, root included, can delete a trail's file (S3 Object Lock, compliance mode). 0: no lock. A lock can't be taken back."
  type        = number
  default     = 0

  validation {
    condition     = var.trail_lock_days >= 0 && var.trail_lock_days <= 3650
    error_message = "trail_lock_days must be 0 to 3650."
  }
}

variable "trail_bucket_force_destroy" {
  description = "Whether Terraform may delete the trail's bucket with all files. On only to take a trial installation down."
  type        = bool
  default     = false
}

variable "trail_readers" {
  description = "ARNs of the IAM principals that may decrypt the trail's files, to reconcile them with the audit log."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.trail_readers : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[^*]+$", arn))])
    error_message = "trail_readers must be ARNs of IAM roles or users, without wildcards."
  }
}

variable "events_retention_days" {
  description = "Days that the trail's events are kept in CloudWatch Logs, where the alarms look at them."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.events_retention_days)
    error_message = "events_retention_days must be one of the retentions of CloudWatch Logs."
  }
}

# Alarms

variable "alarm_topics" {
  description = "ARNs of SNS topics that alarms go to. Empty: one is made."
  type        = list(string)
  default     = []
}

variable "alarm_emails" {
  description = "Addresses that are subscribed to the topic that is made; each has to confirm."
  type        = list(string)
  default     = []
}

variable "kms_quota_percent" {
  description = "The alarm on the KMS request quota of the account and region rises at so many percent of it."
  type        = number
  default     = 70

  validation {
    condition     = var.kms_quota_percent > 0 && var.kms_quota_percent < 100
    error_message = "kms_quota_percent must be between 0 and 100."
  }
}
